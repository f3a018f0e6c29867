"""``leaderlease inject``: puts the sidecar into manifests, for those who would rather see it in their repository."""

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import yaml

from leaderlease.client.endpoints import parse_endpoints
from leaderlease.controller.inject import CA_BYTES_MAX, NAMESPACES_NEVER, Injection
from leaderlease.controller.inject import inject as inject_pod
from leaderlease.controller.parameters import is_label
from leaderlease.controller.resource import LABEL_INJECT, sidecar_state
from leaderlease.errors import ConfigError

INPUT_BYTES_MAX: Final = 64 << 20
"""Of one stream."""
TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind -> where its pod is."""


class _Named(msgspec.Struct):
    name: str = ""


class _Port(msgspec.Struct, rename="camel"):
    container_port: int
    name: str | None = None
    protocol: str | None = None


class _Mount(msgspec.Struct, rename="camel"):
    mount_path: str


class _Container(msgspec.Struct, rename="camel"):
    name: str
    ports: list[_Port] | None = None
    env: list[_Named] | None = None
    volume_mounts: list[_Mount] | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    containers: list[_Container]
    init_containers: list[_Container] | None = None
    volumes: list[_Named] | None = None
    termination_grace_period_seconds: int | None = None
    host_network: bool | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata | None = None


class _Pod(_Object, kw_only=True):
    """What is looked at in a pod, in the types that an API server insists on."""

    spec: _PodSpec


_DOCUMENT = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """Reads as kubectl does: dates and 12:30 are texts."""


class _Dumper(yaml.SafeDumper):
    """Writes for people: lists below their key, several lines as several lines, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _plain_resolvers() -> Iterator[tuple[str, list[tuple[str, re.Pattern[str]]]]]:
    numbers = {
        "tag:yaml.org,2002:int": re.compile(r"[-+]?(0b[01_]+|0x[\da-fA-F_]+|0[0-7_]+|0|[1-9][\d_]*)\Z"),
        "tag:yaml.org,2002:float": re.compile(r"([-+]?(\d[\d_]*)?\.[\d_]+([eE][-+]\d+)?|[-+]?\d[\d_]*\.([eE][-+]\d+)?"
                                              r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    }  # fmt: skip
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept = [(tag, numbers.get(tag, pattern)) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        yield first, kept


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Loader.yaml_implicit_resolvers = dict(_plain_resolvers())
_Dumper.add_representer(str, _represent_text)


@click.command(short_help="Put the sidecar into manifests.")
@click.option("-f", "--filename", default="-", show_default=True, help="YAML file; - reads standard input.")
@click.option("--lease", default="", help="Label every pod that has no label with this lease, too.")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of objects that do not say one.")
@click.option("--endpoints", required=True, envvar="LEADERLEASE_ENDPOINTS", show_envvar=True, metavar="HOST:PORT,...",
              help="Nodes of the quorum, as pods reach them.")  # fmt: skip
@click.option("--tls-ca", "ca", type=click.Path(path_type=Path), envvar="LEADERLEASE_TLS_CA", show_envvar=True,
              help="PEM file: the authority that signed the nodes; without it sidecars use plain TCP.")  # fmt: skip
@click.option("--image", default="leaderlease/agent", show_default=True, help="Image of the sidecar.")
@click.option("--pull-policy", type=click.Choice(["", "Always", "IfNotPresent", "Never"]), default="",
              help="When nodes pull it; Kubernetes decides by the tag unless told.")  # fmt: skip
@click.option("--audience", default="leaderlease", show_default=True,
              help="Of the sidecar's token; empty gives it none.")  # fmt: skip
def inject(
    filename: str,
    lease: str,
    namespace: str,
    endpoints: str,
    ca: Path | None,
    image: str,
    pull_policy: str,
    audience: str,
) -> None:
    """Read manifests, put the sidecar into pods with the label leaderlease.dev/inject, write manifests.

    Pods and the templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs are looked at; every
    other document is written as it was read. What was injected before stays as it is. No cluster is asked.

    \b
    kustomize build . | leaderlease inject -f - --endpoints nodes.leases:7400 --tls-ca ca.crt | kubectl apply -f -
    """
    injection = Injection(
        image=image,
        endpoints=tuple(str(endpoint) for endpoint in parse_endpoints(endpoints)),
        pull_policy=pull_policy,
        ca=_read_ca(ca) if ca is not None else "",
        audience=audience,
    )
    if lease and not is_label(lease):
        raise ConfigError(f"--lease {lease!r}: is no name of a LeaderLease, for example billing")
    done = [_inject_document(text, injection, lease, namespace) for text in _documents(_read(filename))]
    # Only now: a stream that is refused must not be applied by halves.
    sys.stdout.write("".join(text for text, _ in done))
    found = [name for _, names in done for name in names]
    for name in found:
        click.echo(f"leaderlease: injected: {name}", err=True)
    if not found:
        click.echo(f"leaderlease: warning: no pod with the label {LABEL_INJECT} that lacks a sidecar", err=True)


def _documents(text: str) -> Iterator[str]:
    """Split a stream, without losing a character: no scalar can have --- at the beginning of a line."""
    starts = [0, *(found.start() for found in _DOCUMENT.finditer(text) if found.start() > 0), len(text)]
    for begin, end in pairwise(starts):
        yield text[begin:end]


def _inject_document(text: str, injection: Injection, lease: str, namespace: str) -> tuple[str, list[str]]:
    try:
        body = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the input is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        return text, []
    found = []
    objects = (body.get("items") or []) if body.get("kind") == "List" else [body]
    if not isinstance(objects, list):
        raise ConfigError("the input has a List whose items are no list")
    for one in objects:
        name = _inject_object(one, injection, lease, namespace)
        found += [name] if name else []
    if not found:
        return text, []
    start = "---\n" if text.startswith("---") else ""
    return start + yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=INPUT_BYTES_MAX, allow_unicode=True), found


def _inject_object(body: Any, injection: Injection, lease: str, namespace: str) -> str:
    """Inject into one object, in place; return what to call it, empty if nothing was done."""
    path = TEMPLATES.get(str(body.get("kind"))) if isinstance(body, dict) else None
    if path is None:
        return ""
    _check_shape(str(body["kind"]), body, _Object)
    metadata = body.get("metadata") or {}
    where = metadata.get("namespace") or namespace
    name = f"{body['kind']} {where}/{metadata.get('name') or metadata.get('generateName', '?')}"
    parent, pod = None, body
    for key in path:
        parent, pod = pod, (pod.get(key) if isinstance(pod, dict) else None)
    if not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict) or not pod["spec"].get("containers"):
        raise ConfigError(f"{name}: {'.'.join((*path, 'spec', 'containers'))} is missing, so it is no workload")
    _check_shape(name, pod, _Pod)
    labels = (pod.get("metadata") or {}).get("labels") or {}
    if lease and LABEL_INJECT not in labels:
        pod = {**pod, "metadata": {**(pod.get("metadata") or {}), "labels": {**labels, LABEL_INJECT: lease}}}
    if where in NAMESPACES_NEVER or sidecar_state(pod) != "wanted":
        return ""
    try:
        injected = inject_pod(pod, injection)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if parent is None:
        body.update(injected)
    else:
        parent[path[-1]] = injected
    return name


def _check_shape(name: str, value: Any, shape: type[_Object]) -> None:
    """Refuse what an API server would refuse anyhow, before anything of it is used."""
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error


def _read(filename: str) -> str:
    try:
        if filename == "-":
            raw = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        else:
            with Path(filename).open("rb") as file:
                raw = file.read(INPUT_BYTES_MAX + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"-f {filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"-f {filename}: is no UTF-8 text") from error
    if len(raw) > INPUT_BYTES_MAX:
        raise ConfigError(f"-f {filename}: larger than {INPUT_BYTES_MAX} bytes")
    return text if not text or text.endswith("\n") else text + "\n"


def _read_ca(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(CA_BYTES_MAX + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--tls-ca {path}: cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text:
        raise ConfigError(f"--tls-ca {path}: must hold certificates in PEM format and no key: pods carry it in public")
    return text
