"""What the API server's audit log says about ServiceAccounts, and what a chart's rules allow them.

The log comes from LEADERLEASE_AUDIT_LOG: one JSON event of level Metadata a line, of every request.
"""

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from support import e2e

LOG_VARIABLE = "LEADERLEASE_AUDIT_LOG"
LOG_LAG_S = 30.0
READS = frozenset({"get", "list", "watch"})
CREATED = 201
FORBIDDEN = 403
ENDING = "because it is being terminated"
"""In the text of a 403 that is no lack of rights: nothing new may be made in a namespace that goes."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Call:
    """One request of a ServiceAccount.

    Attributes:
        account: ``namespace:name``.
        resource: With its subresource; empty where ``path`` is none of a resource.
        reason: By which binding it was allowed.
        message: Of a failure.
    """

    account: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    path: str
    code: int
    reason: str
    message: str

    @property
    def is_forbidden(self) -> bool:
        """A right was missing."""
        return self.code == FORBIDDEN and ENDING not in self.message

    @property
    def verbs(self) -> tuple[str, ...]:
        """What had to be allowed: an apply that made an object needed the right to create it, too."""
        return ("patch", "create") if self.verb == "patch" and self.code == CREATED else (self.verb,)

    def __str__(self) -> str:
        what = f"{self.group or 'core'}/{self.resource} {self.namespace}/{self.name}" if self.resource else self.path
        return f"{self.account}: {self.verb} {what}: {self.code} {self.message}".rstrip()


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource or path that a role gives to a ServiceAccount.

    Attributes:
        target: ``group/resource``, or a path.
        namespace: In which; empty is everywhere.
        names: The objects; none means all.
    """

    account: str
    target: str
    verb: str
    namespace: str = ""
    names: tuple[str, ...] = ()

    def allows(self, call: Call, verb: str) -> bool:
        """Tell whether the call with this verb is within the right."""
        return (
            (self.account, self.verb) == (call.account, verb)
            and self.target == (f"{call.group}/{call.resource}" if call.resource else call.path)
            and self.namespace in ("", call.namespace)
            and (not self.names or call.name in self.names)
        )


def missing() -> str:
    """Say why there is no audit log; empty if there is one."""
    path = os.environ.get(LOG_VARIABLE)
    return "" if path and Path(path).is_file() else f"{LOG_VARIABLE} names no audit log of the API server"


def now() -> str:
    """Return the time as the log has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def calls(began: str) -> list[Call]:
    """Return what ServiceAccounts called since then; all that happened before this question is in it.

    Args:
        began: From :func:`now`.
    """
    _wait_for_the_log()
    return list(_read(began, b'"username":"system:serviceaccount:', _call))


def _wait_for_the_log() -> None:
    """Ask for something that nobody else asks for, and wait until the log has it, for it is written late."""
    name = f"audit-{os.getpid()}-{next(_numbers)}-{time.time_ns()}"
    began = now()
    e2e.get("configmap", name, "-n", "default")
    e2e.until(
        "the audit log has the latest request", lambda: any(_read(began, name.encode(), lambda event: event)), LOG_LAG_S
    )


def _read(began: str, word: bytes, convert: Any) -> Iterator[Any]:
    log = Path(os.environ[LOG_VARIABLE])
    # A full log is renamed to audit-<time>.log.
    for path in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        with path.open("rb") as file:
            for line in file:
                if word in line and line.endswith(b"\n"):
                    event = json.loads(line)
                    if event["requestReceivedTimestamp"] >= began:
                        yield convert(event)


def _call(event: dict[str, Any]) -> Call:
    target, status = event.get("objectRef") or {}, event.get("responseStatus") or {}
    sub = f"/{target['subresource']}" if target.get("subresource") else ""
    return Call(
        account=event["user"]["username"].removeprefix("system:serviceaccount:"),
        verb=event["verb"],
        group=target.get("apiGroup", ""),
        resource=f"{target['resource']}{sub}" if target.get("resource") else "",
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        path=event["requestURI"].partition("?")[0],
        code=status.get("code", 0),
        reason=(event.get("annotations") or {}).get("authorization.k8s.io/reason", ""),
        message=status.get("message", ""),
    )


def objects(release: str, namespace: str) -> list[dict[str, Any]]:
    """Return what a release of the chart installed."""
    text = e2e.run("helm", "get", "manifest", release, "-n", namespace)
    return [body for body in yaml.safe_load_all(text) if body]


def accounts(bodies: Iterable[dict[str, Any]], namespace: str) -> set[str]:
    """Return the ServiceAccounts among objects."""
    return {f"{namespace}:{one['metadata']['name']}" for one in bodies if one["kind"] == "ServiceAccount"}


def rights(bodies: list[dict[str, Any]]) -> set[Right]:
    """Return what the bindings among objects give to ServiceAccounts."""
    roles = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in bodies}
    found = set()
    for binding in bodies:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where, ref = binding["metadata"].get("namespace", ""), binding["roleRef"]
        role = roles[ref["kind"], where if ref["kind"] == "Role" else "", ref["name"]]
        for subject, rule in itertools.product(binding["subjects"], role["rules"]):
            targets = [f"{g}/{r}" for g in rule.get("apiGroups", ()) for r in rule.get("resources", ())]
            for target, verb in itertools.product([*targets, *rule.get("nonResourceURLs", ())], rule["verbs"]):
                account = f"{subject['namespace']}:{subject['name']}"
                found.add(Right(account, target, verb, where, tuple(rule.get("resourceNames", ()))))
    return found
