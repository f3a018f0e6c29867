"""Watch the acceptors, proposers and clients of a world and write down what they do, in the words of the model.

Rule 1: an observer never changes the run: production's own objects run, and only their calls are looked at.
Rule 2: an acceptor is looked at before and after each call, so one call that takes two steps is written as two.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from leaderlease.paxos.acceptor import NEVER, RELEASED, Acceptor, Ceiling, Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Renew, Renewed
from leaderlease.paxos.proposer import HandOver, Intent, Vacate
from model.traces import FOREVER, Trace

State = tuple[Ballot, Ballot, Value | None, int]
"""What is promised, the accepted ballot and value, and when the timer ends."""


class Watcher:
    """Writes traces of some registers.

    Args:
        traces: Key -> its trace.
        now_ms: True time.
    """

    def __init__(self, traces: Mapping[str, Trace], now_ms: Callable[[], float]) -> None:
        self.traces = traces
        self._now_ms = now_ms
        self._before: dict[tuple[str, str], State] = {}
        self._sent: dict[tuple[str, int, int], int] = {}

    # --- acceptors -----------------------------------------------------------------------------------------------

    def began(self, name: str, acceptor: Acceptor, clock: Callable[[], int], rate: float = 1.0) -> None:
        """Watch this life of a member; a later one than the first starts from what the disk had."""
        for key, trace in self.traces.items():
            promised, accepted, value, expires = _state(acceptor, key)
            was = self._before.get((name, key), (ZERO, ZERO, None, RELEASED))
            if accepted != was[1]:
                # Durable before the crash, and nobody was told.
                trace.add(self._now_ms(), "accept", a=name, prom=accepted, ab=accepted, v=value, left=FOREVER)
            if promised != ZERO:
                left = _left_ms(expires, clock(), rate)
                trace.add(self._now_ms(), "restart", a=name, prom=promised, ab=accepted, v=value, left=left)
            self._before[name, key] = (promised, accepted, value, expires)
        self._wrap(name, acceptor, clock, rate)

    def _wrap(self, name: str, acceptor: Acceptor, clock: Callable[[], int], rate: float) -> None:
        handle, persisted, renew, release = acceptor.handle, acceptor.persisted, acceptor.renew, acceptor.release

        def look(kind: str = "repeat") -> None:
            for key in self.traces:
                self._look(name, key, _state(acceptor, key), clock, rate, kind)

        def watched_handle(origin: str, msg: Any, now_ms: int) -> Any:
            look()
            effects = handle(origin, msg, now_ms)
            look()
            return effects

        def watched_persisted(record: Record | Ceiling, now_ms: int) -> Any:
            look()
            effects = persisted(record, now_ms)
            look()
            return effects

        def watched_renew(msg: Renew, now_ms: int) -> Renewed:
            answer = renew(msg, now_ms)
            if not answer.epoch:
                for position, item in enumerate(msg.items):
                    if item.key in self.traces and position not in answer.nacked + answer.unknown:
                        self._renewed(name, item.key, msg, item.counter, _state(acceptor, item.key), clock, rate)
            return answer

        def watched_release(msg: Any) -> Value | None:
            released = release(msg)
            look()
            return released

        acceptor.handle = watched_handle  # type: ignore[method-assign]
        acceptor.persisted = watched_persisted  # type: ignore[method-assign]
        acceptor.renew = watched_renew  # type: ignore[method-assign]
        acceptor.release = watched_release  # type: ignore[method-assign]

    def _look(self, name: str, key: str, state: State, clock: Callable[[], int], rate: float, kind: str) -> None:
        promised, accepted, value, expires = state
        before = self._before.get((name, key), (ZERO, ZERO, None, RELEASED))
        if state == before:
            return
        self._before[name, key] = state
        was_promised, was_accepted, _, was_expires = before
        trace, now_ms, left = self.traces[key], self._now_ms(), _left_ms(expires, clock(), rate)
        if accepted != was_accepted:
            is_released = expires == RELEASED and value is not None and value.holder is not None
            shown = FOREVER if is_released else left
            trace.add(now_ms, "accept", a=name, prom=accepted, ab=accepted, v=value, left=shown)
            if is_released:
                trace.add(now_ms, "release", a=name)
            was_promised = accepted
        elif expires > was_expires:
            trace.add(now_ms, kind, a=name, left=left)
        elif expires == RELEASED != was_expires:
            trace.add(now_ms, "release", a=name)
        if promised != was_promised:
            trace.add(now_ms, "promise", a=name, prom=promised, ab=accepted, v=value)

    def _renewed(
        self, name: str, key: str, msg: Renew, counter: int, state: State, clock: Callable[[], int], rate: float
    ) -> None:
        self._before[name, key] = state
        trace, now_ms = self.traces[key], self._now_ms()
        sent_ms = self._sent.get((msg.member, msg.incarnation, msg.attempt), math.floor(now_ms))
        ballot = Ballot(counter, msg.member, msg.incarnation)
        age, left = math.floor(now_ms) - sent_ms, _left_ms(state[3], clock(), rate)
        trace.add(now_ms, "renewed", a=name, b=ballot, age=age, left=left)

    # --- proposers -----------------------------------------------------------------------------------------------

    def begins(self, key: str, ballot: Ballot, nonce: str) -> None:
        """A member starts an attempt."""
        if key in self.traces:
            self.traces[key].owners[ballot] = nonce

    def proposes(self, msg: Accept, intent: Intent | None, has_let_go: Callable[[str], bool]) -> None:
        """A member sends an Accept; the first one under its ballot is the proposal."""
        trace = self.traces.get(msg.key)
        if trace is None or trace.values.get(msg.ballot) == msg.value:
            return
        if isinstance(intent, Vacate | HandOver) and intent.nonce and has_let_go(intent.nonce):
            self.lets_go(msg.key, intent.nonce)
        trace.values.setdefault(msg.ballot, msg.value)
        trace.add(self._now_ms(), "propose", b=msg.ballot, v=msg.value)

    def renews(self, msg: Renew) -> None:
        """A member sends a renewal to the others."""
        attempt = (msg.member, msg.incarnation, msg.attempt)
        if attempt in self._sent:
            return
        self._sent[attempt] = math.floor(self._now_ms())
        for item in msg.items:
            trace = self.traces.get(item.key)
            ballot = Ballot(item.counter, msg.member, msg.incarnation)
            if trace is not None and ballot in trace.values:
                trace.add(self._now_ms(), "send renew", c=trace.values[ballot].nonce, b=ballot)

    # --- clients -------------------------------------------------------------------------------------------------

    def lets_go(self, key: str, nonce: str) -> None:
        """A client has stopped believing, or never will believe."""
        trace = self.traces.get(key)
        if trace is not None and any(value.nonce == nonce for value in trace.values.values()):
            trace.add(self._now_ms(), "let go", c=nonce)

    def believes(self, key: str, nonce: str, term: int, left_ms: float) -> None:
        """A client believes for another ``left_ms`` of true time."""
        if key in self.traces:
            left = FOREVER if left_ms == math.inf else max(0, math.floor(left_ms))
            self.traces[key].add(self._now_ms(), "believe", c=nonce, t=term, left=left)


def _state(acceptor: Acceptor, key: str) -> State:
    register = acceptor.registers.get(key)
    if register is None:
        return (acceptor._floor, ZERO, None, RELEASED)
    return (register.promised, register.accepted, register.value, register.expires_ms)


def _left_ms(expires_ms: int, clock_ms: int, rate: float) -> int:
    """Return what is left of a timer in true time, rounded up."""
    if expires_ms == NEVER:
        return FOREVER
    return min(FOREVER, math.ceil(max(0, expires_ms - clock_ms) / rate) + 1)
