"""Gives renewed authorities to the pods that run: what a pod was injected with is of the day on which it was created.

Rule 1: an injected pod of ours trusts what this operator trusts, no more and no less. So both authorities of an overlap
        reach every sidecar while it lasts, and the old one goes when it is over.
Rule 2: a pod of which no LeaderLease is ours is left alone, and so is one that was injected without TLS.
Rule 3: nothing is written for a file that cannot be read; it is said once for each state of the file.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from leaderlease.controller.actions import Action, Annotate
from leaderlease.controller.cache import Cache
from leaderlease.controller.own_quorum import is_of_another
from leaderlease.controller.resource import ANNOTATION_CA, INJECTED, LEADER_QUORUM, Pod, certificates_digest
from leaderlease.errors import ConfigError
from leaderlease.wire import tls

PERIOD_S: Final = 5.0
"""How often the file is looked at; a kubelet takes longer to bring it."""
PEM_BYTES_MAX: Final = 64 << 10
"""A pod's annotations have 256 KiB in all."""

logger = logging.getLogger("leaderlease.operator.trust")


def read_authorities(path: Path) -> str:
    """Read a file of authorities.

    Raises:
        ValueError: It cannot be read, or holds no certificate, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            text = file.read(PEM_BYTES_MAX + 1).decode()
        tls.client_context(None, None, path)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ValueError(f"{path}: the authority that signed the nodes cannot be read: {error}") from error
    if not certificates_digest(text) or len(text) > PEM_BYTES_MAX:
        raise ValueError(f"{path}: holds no certificate in PEM format, or more than {PEM_BYTES_MAX} bytes")
    return text


def plan_trust(pod: Pod, pem: str, *, is_ours: bool) -> list[Action]:
    """Return what makes a pod trust these authorities; nothing if it does (rules 1 and 2)."""
    is_changing = pod.sidecar == INJECTED and not pod.is_over and not pod.is_terminating
    if not is_ours or not is_changing or not pod.authorities or pod.authorities == certificates_digest(pem):
        return []
    return [Annotate(pod, ANNOTATION_CA, pem)]


class Trust:
    """What this operator trusts, and which pods do not yet.

    Args:
        ca: PEM file: the authorities of the nodes.
        namespace: The operator's own.
        cache: Has the pods.
        apply: Carries out actions.
        on_change: Called when the file holds other authorities than before.
    """

    def __init__(
        self,
        ca: Path,
        namespace: str,
        cache: Cache,
        apply: Callable[[Sequence[Action]], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self._ca = ca
        self._namespace = namespace
        self._cache = cache
        self._apply = apply
        self._on_change = on_change
        self._seen: tls.Stamp | None = None
        self.pem = ""

    async def run(self) -> None:
        """Look at the file until cancelled."""
        while True:
            if self.look():
                self._on_change()
            await asyncio.sleep(PERIOD_S)

    def look(self) -> bool:
        """Look at the file once; return whether it holds other authorities than before (rule 3)."""
        stamp = tls.stamp((self._ca,))
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            pem = read_authorities(self._ca)
        except ValueError as error:
            logger.error("pods keep the authorities that they have: %s", error)
            return False
        before, self.pem = self.pem, pem
        return certificates_digest(before) != certificates_digest(pem)

    async def look_at(self, namespace: str, name: str) -> None:
        """Give a pod what it should trust.

        Raises:
            LeaderLeaseError: The API server did not take it, or another replica writes.
        """
        pod = self._cache.pod(namespace, name)
        if pod is not None and (actions := self._plan(pod)):
            await self._apply(actions)
            logger.info("%s/%s: was given the authorities of the nodes", namespace, name)

    def behind(self) -> int:
        """Count the pods that do not trust what they should."""
        return sum(bool(self._plan(pod)) for pod in self._cache.all_pods())

    def _plan(self, pod: Pod) -> list[Action]:
        return plan_trust(pod, self.pem, is_ours=self._is_ours(pod)) if self.pem else []

    def _is_ours(self, pod: Pod) -> bool:
        specs = [entry.spec for name in pod.injected if (entry := self._cache.lease((pod.namespace, name)))]
        quorums = {spec.quorum for spec in specs if spec is not None}
        return any(not is_of_another(self._cache.get(LEADER_QUORUM, "", one), self._namespace) for one in quorums)
