"""Write what the pure core did in a test's world as a trace that ``spec/Trace.tla`` checks against the model."""

from typing import Any

from leaderlease.paxos.acceptor import RELEASED
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Release, Renew, Renewed
from leaderlease.paxos.proposer import HandOver, Vacate
from support.core import KEY, World

Event = dict[str, Any]
DURATION_MS = 1_000


class RecordingWorld(World):
    """A world that records, for the register ``KEY``, each step that the model has an action for."""

    made: list["RecordingWorld"]

    def __init__(self, *args: Any, **options: Any) -> None:
        self.events: list[Event] = []
        self.owners: dict[Ballot, str] = {}
        self.values: dict[Ballot, Value] = {}
        self.nevers: set[str] = set()
        self.before: dict[str, tuple[Ballot, Ballot, Value | None, int]] = {}
        super().__init__(*args, **options)
        self.on_step = self.look
        type(self).made.append(self)

    def look(self) -> None:
        """Record what changed in the acceptors since the last look."""
        for name in self.nodes:
            promised, accepted, value, expires = self._state(name)
            was_promised, was_accepted, _, was_expires = self.before.get(name, (ZERO, ZERO, None, RELEASED))
            self.before[name] = (promised, accepted, value, expires)
            if accepted != was_accepted:
                self._record("accept", name)
                if expires == RELEASED and value is not None and value.holder is not None:
                    self._record("release", name)
            elif promised != was_promised:
                self._record("promise", name)
            elif expires > was_expires:
                self._record("repeat", name)
            elif expires == RELEASED != was_expires:
                self._record("release", name)

    def send(self, source: str, target: str, message: Any, hops: int = 0) -> None:
        """Record what is proposed, renewed and let go, in the order in which it is sent."""
        super().send(source, target, message, hops)
        match message:
            case Accept() if message.key == KEY and message.ballot not in self.values:
                self._propose(source, message)
            case Renew():
                value = self.values[Ballot(message.items[0].counter, message.member, message.incarnation)]
                self.events.append({"kind": "send renew", "c": value.nonce})
            case Renewed() if not (message.epoch or message.nacked or message.unknown):
                renew = self[target].rounds[message.attempt].renew
                self.before[source] = self._state(source)
                ballot = Ballot(renew.items[0].counter, renew.member, renew.incarnation)
                self.events.append({"kind": "renewed", "a": source, "b": ballot})
            case Release():
                self.events.append({"kind": "let go", "c": self.values[message.ballot].nonce})

    def begin(self, member: Any, nonce: str, intent: Any, key: str = KEY) -> Any:
        """Remember for whom the ballot is."""
        attempt = super().begin(member, nonce, intent, key)
        self.owners[attempt.ballot] = nonce
        return attempt

    def advance(self, elapsed_ms: int) -> None:
        """Record that time passes."""
        super().advance(elapsed_ms)
        self.events.append({"kind": "tick", "ms": elapsed_ms})

    def restart(self, *members: Any) -> None:
        """Record each new life with what it starts from."""
        super().restart(*members)
        for member in map(str, members):
            self.before[member] = self._state(member)
            self._record("restart", member)

    def believe(self, who: Any, attempt: Any, sent_ms: int | None = None, rate: float = 1.0) -> bool:
        """Record that a holder takes its grant."""
        is_taken = super().believe(who, attempt, sent_ms, rate)
        if is_taken:
            self.events.append({"kind": "believe", "c": who.nonce})
        return is_taken

    def _propose(self, source: str, message: Accept) -> None:
        attempt = self[source].attempts.get((KEY, message.ballot))
        intent = attempt.intent if attempt is not None else None
        if isinstance(intent, Vacate | HandOver) and intent.nonce:
            self.events.append({"kind": "let go", "c": intent.nonce})
        self.values[message.ballot] = message.value
        if message.value.is_never:
            self.nevers.add(message.value.nonce)
        self.events.append({"kind": "propose", "b": message.ballot, "v": message.value})

    def _state(self, name: str) -> tuple[Ballot, Ballot, Value | None, int]:
        acceptor = self[name].acceptor
        register = acceptor.registers.get(KEY)
        if register is None:
            return (acceptor._floor, ZERO, None, RELEASED)
        return (register.promised, register.accepted, register.value, register.expires_ms)

    def _record(self, kind: str, name: str) -> None:
        promised, accepted, value, _ = self._state(name)
        self.events.append({"kind": kind, "a": name, "prom": promised, "ab": accepted, "v": value})


def write(world: RecordingWorld, events: list[Event]) -> tuple[str, str]:
    """Return the module TraceData and the configuration that checks ``events`` of ``world``."""
    ballots = {ballot for event in events for ballot in event.values() if isinstance(ballot, Ballot)}
    ranks = {ballot: rank for rank, ballot in enumerate(sorted((ballots | world.owners.keys()) - {ZERO}), 1)}
    ranks[ZERO] = 0
    nonces = {nonce for nonce in world.owners.values() if nonce}
    nonces |= {value.nonce for value in world.values.values() if value.nonce}
    clients = {nonce: number for number, nonce in enumerate(sorted(nonces), 1)} | {"": 0}
    owner = ", ".join(
        str(clients[world.owners.get(ballot, "")]) for ballot in sorted(ranks, key=ranks.__getitem__) if ranks[ballot]
    )

    def term(name: str, item: Any) -> str:
        if isinstance(item, Ballot):
            return str(ranks[item])
        if isinstance(item, Value) or item is None:
            return f"[h |-> {clients[item.nonce]}, t |-> {item.term}]" if item is not None else "[h |-> 0, t |-> 0]"
        if name == "c":
            return str(clients[item])
        return str(item) if isinstance(item, int) else f'"{item}"'

    lines = [
        "[" + ", ".join(f"{name} |-> {term(name, item)}" for name, item in event.items()) + "]" for event in events
    ]
    data = (
        "---- MODULE TraceData ----\nTraceOwner == <<"
        + owner
        + ">>\nEvents == <<\n"
        + ",\n".join(lines)
        + "\n>>\n====\n"
    )
    members = "{" + ", ".join(f'"{name}"' for name in sorted(world.quorum.members)) + "}"
    numbers = sorted(number for number in clients.values() if number)
    constants = {
        "Old": members,
        "New": members,
        "Clients": _braces(numbers),
        "NeverClients": _braces(sorted(clients[nonce] for nonce in world.nevers)),
        "MaxB": max(ranks.values()),
        "Duration": DURATION_MS,
        "Skew": 0,
        "Margin": 0,
        "Block": 1,
        "Holders": _braces(numbers),
        "Steps": '{"tick", "restart", "repeat", "renew", "release", "vacate", "handover"}',
        "Mut": "{}",
    }
    text = "SPECIFICATION TraceSpec\nINVARIANT IsNotOver Belief Agreement\nCONSTANTS\n    Owner <- TraceOwner\n"
    return data, text + "".join(f"    {name} = {value}\n" for name, value in constants.items())


def _braces(numbers: list[int]) -> str:
    return "{" + ", ".join(map(str, numbers)) + "}"
