"""Linearizability of one lease (Wing and Gong's search, as Lowe made it fast; unknown outcomes fork the model).

The model of a lease is what clients were promised: ``(term, nonce)``, where nonce is empty when nobody holds.

| operation | takes effect as |
|---|---|
| acquire(nonce) -> term | the term rises to exactly this one, and the nonce holds; or it held under this term already |
| acquire(nonce) -> unknown | never, or under some terms that nobody else gets |
| denied(nonce) | this nonce does not hold |
| release(nonce) | nobody holds, if this nonce did; only of leases without end |
| revoke(term) | nobody holds, if this was the term |
| read -> (term, nonce) | exactly this is the state |

Time may end a lease at any moment, so "nobody holds" needs no proof; that it ends too early is for the belief checker
to find. A release of a lease that ends by time stops timers, without a quorum: it is no operation here, for a read may
say "held" for one more duration. What was not answered has no end: it may take effect at any later time, or never.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

State = tuple[int, str]
FREE: State = (0, "")
NODES_MAX = 2_000_000
"""Steps of one search; a history that needs more is too tangled to judge, and that is said."""


@dataclass(slots=True)
class Op:
    """One operation.

    Attributes:
        invoked: When it began.
        returned: When its answer came; infinity if none ever did.
        term: Of the answer; of a revoke, what was asked.
    """

    kind: str
    nonce: str
    invoked: float
    returned: float = float("inf")
    term: int = 0

    @property
    def is_known(self) -> bool:
        """Tell whether it was answered."""
        return self.returned != float("inf")


def step(state: State, op: Op) -> State | None:
    """Return the state after this operation, or None if it cannot take effect here."""
    term, nonce = state
    match op.kind:
        case "acquire":
            if op.term > term or (op.term == term and nonce == op.nonce):
                return op.term, op.nonce
            return None
        case "denied":
            # Time has ended what it held, or it holds nothing.
            return (term, "") if nonce == op.nonce else state
        case "release":
            return (term, "") if nonce == op.nonce else state
        case "revoke":
            return (term, "") if term == op.term else state
        case "read":
            return state if state == (op.term, op.nonce) else None
    raise ValueError(f"no such operation: {op.kind}")


def is_past(state: State, op: Op) -> bool:
    """Tell whether this answer can no more be explained: terms only rise."""
    return op.is_known and op.kind in ("acquire", "read") and op.term < state[0]


def relevant(operations: Iterable[Op]) -> list[Op]:
    """Return the operations that can matter; what is unknown appears once for each term under which it was seen.

    A nonce asks again, elsewhere, until it is answered, so it may be chosen for more than one term, of which it
    believes one at most. What nobody ever saw can only forbid what others saw, and is left out; likewise a release or a
    revoke that was not answered, which time could stand in for.
    """
    operations = list(operations)
    seen: dict[str, set[int]] = {}
    for op in operations:
        if op.kind == "read":
            seen.setdefault(op.nonce, set()).add(op.term)
    kept = []
    for op in operations:
        if op.is_known:
            kept.append(op)
        if op.kind == "acquire":
            terms = seen.get(op.nonce, set()) - ({op.term} if op.is_known else set())
            kept += [Op("acquire", op.nonce, op.invoked, term=term) for term in sorted(terms)]
    return kept


def is_linearizable(operations: Iterable[Op]) -> bool:
    """Tell whether there is an order that keeps real time and explains every answer.

    What is answered and changes nothing here is put here, and no other place is tried for it: moved to the front of an
    order it spoils nothing, for what it would have ended later may as well go on.

    Raises:
        RuntimeError: The search took more than ``NODES_MAX`` steps.
    """
    order = sorted(relevant(operations), key=lambda op: (op.invoked, op.returned))
    count = len(order)
    # The state, which operations up to a frontier are done, as (first open index, set of done ones above it).
    start: tuple[int, frozenset[int], State] = (0, frozenset(), FREE)
    stack, visited, steps = [start], {start}, 0
    while stack:
        first, done, state = stack.pop()
        if first >= count:
            return True
        limit = float("inf")
        found: list[tuple[float, int, State]] = []
        index = first
        while index < count and order[index].invoked <= limit:
            op = order[index]
            if index not in done:
                steps += 1
                if is_past(state, op):
                    found = []
                    break
                after = step(state, op)
                if after == state and op.is_known:
                    found = [(op.returned, index, after)]
                    break
                if after is not None:
                    found.append((op.returned, index, after))
                if not op.is_known:
                    # It never takes effect.
                    found.append((float("inf"), index, state))
                limit = min(limit, op.returned)
            index += 1
        # What was answered first is tried first: it comes off the stack first.
        for _, index, after in sorted(found, reverse=True):
            _push(stack, visited, (first, done | {index}, after))
        if steps > NODES_MAX:
            raise RuntimeError(f"linearizability: no answer after {NODES_MAX} steps over {count} operations")
    return False


def _push(
    stack: list[tuple[int, frozenset[int], State]],
    visited: set[tuple[int, frozenset[int], State]],
    node: tuple[int, frozenset[int], State],
) -> None:
    first, done, state = node
    while first in done:
        done = done - {first}
        first += 1
    node = (first, done, state)
    if node not in visited:
        visited.add(node)
        stack.append(node)


def is_linearizable_by_force(operations: Sequence[Op]) -> bool:
    """Tell the same by trying every order and every fate of what is unknown; for up to seven operations."""
    operations = relevant(operations)
    unknown = [i for i, op in enumerate(operations) if not op.is_known]
    for fate in range(1 << len(unknown)):
        left_out = {index for bit, index in enumerate(unknown) if fate >> bit & 1}
        taken = [op for index, op in enumerate(operations) if index not in left_out]
        for order in permutations(taken):
            if _keeps_time(order) and _explains(order):
                return True
    return False


def _keeps_time(order: Sequence[Op]) -> bool:
    return not any(later.returned < earlier.invoked for i, earlier in enumerate(order) for later in order[i + 1 :])


def _explains(order: Sequence[Op]) -> bool:
    """Also try that time ends the lease before each operation: the state becomes free under its term."""
    states = {FREE}
    for op in order:
        states |= {(term, "") for term, _ in states}
        states = {after for state in states if (after := step(state, op)) is not None}
        if not states:
            return False
    return True
