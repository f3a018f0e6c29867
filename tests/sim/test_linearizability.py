"""The linearizability checker refuses what it must, and agrees with trying every order on small histories."""

import random
import time

import pytest

from sim.linearizability import Op, is_linearizable, is_linearizable_by_force

INF = float("inf")


def acquire(nonce: str, begin: float, end: float = INF, term: int = 0) -> Op:
    return Op("acquire", nonce, begin, end, term)


def read(nonce: str, begin: float, end: float, term: int) -> Op:
    return Op("read", nonce, begin, end, term)


GOOD = {
    "a grant, and who reads it": [acquire("a", 0, 1, 1), read("a", 2, 3, 1)],
    "a read beside the grant, before its answer": [acquire("a", 0, 9, 1), read("a", 2, 3, 1)],
    "a grant whose answer was lost, and is seen much later": [acquire("a", 0), read("a", 50, 51, 1)],
    "one nonce, chosen again for another term after its answer was lost": [
        acquire("a", 0), read("a", 5, 6, 1), acquire("b", 7, 8, 2), read("a", 20, 21, 3),
    ],
    "terms that nobody saw": [acquire("a", 0, 1, 1), acquire("b", 2, 3, 9)],
    "a revoke that is not answered need not happen": [
        acquire("a", 0, 1, 1), Op("revoke", "", 2, INF, 1), read("a", 5, 6, 1),
    ],
}  # fmt: skip
BAD = {
    "a read of what was never granted": [acquire("a", 0, 1, 1), read("b", 2, 3, 2)],
    "a read of the old holder after the new grant": [
        acquire("a", 0, 1, 1), acquire("b", 2, 3, 2), read("a", 4, 5, 1),
    ],
    "two reads that go back": [
        acquire("a", 0, 1, 1), acquire("b", 2, 9, 2), read("b", 3, 4, 2), read("a", 5, 6, 1),
    ],
    "one term for two": [acquire("a", 0, 1, 1), acquire("b", 2, 3, 1)],
    "a term that goes back": [acquire("a", 0, 1, 2), acquire("b", 2, 3, 1)],
    "a lease without end that is read after its release": [
        acquire("a", 0, 1, 1), Op("release", "a", 2, 3), read("a", 4, 5, 1),
    ],
    "a lease without end that is read after its revocation": [
        acquire("a", 0, 1, 1), Op("revoke", "", 2, 3, 1), read("a", 4, 5, 1),
    ],
    "a denial to one that holds before and after": [
        acquire("a", 0, 1, 1), Op("denied", "a", 2, 3), read("a", 4, 5, 1),
    ],
    "a denial, and then it was granted": [Op("denied", "a", 0, 1), read("a", 2, 3, 1)],
    "an unknown outcome that is seen before it was asked for": [read("a", 0, 1, 1), acquire("a", 2)],
}  # fmt: skip


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_accepts(operations: list[Op]) -> None:
    """An order explains every answer."""
    assert is_linearizable(operations)
    assert is_linearizable_by_force(operations)


@pytest.mark.parametrize("operations", BAD.values(), ids=BAD)
def test_refuses(operations: list[Op]) -> None:
    """No order does."""
    assert not is_linearizable(operations)
    assert not is_linearizable_by_force(operations)


def _random_history(draw: random.Random) -> list[Op]:
    operations = []
    for _ in range(draw.randint(2, 5)):
        begin = draw.randint(0, 8)
        end = begin + draw.randint(0, 5)
        kind = draw.choice(["acquire", "acquire", "acquire", "read", "read", "release", "revoke", "denied"])
        nonce, term = draw.choice("abc"), draw.randint(1, 3)
        if kind in ("acquire", "release", "revoke") and draw.random() < 0.3:
            operations.append(Op(kind, nonce, begin, INF, term if kind == "revoke" else 0))
        else:
            operations.append(Op(kind, "" if kind == "revoke" else nonce, begin, end, term))
    return operations


def test_it_agrees_with_trying_every_order() -> None:
    """On thousands of small random histories, about as many of them good as bad."""
    draw = random.Random(7)
    verdicts = {True: 0, False: 0}
    for _ in range(1_500):
        history = _random_history(draw)
        verdict = is_linearizable(history)
        assert verdict == is_linearizable_by_force(history), history
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 150


def test_reads_that_wait_for_long_are_no_burden() -> None:
    """Thirty questions, open while all else happened, are answered together after it (seed 828115313773)."""
    many = [read("c", number, 900, 3) for number in range(30)]
    history = [acquire("a", 100, 110, 1), acquire("b", 200), acquire("c", 300, 950, 3), read("b", 400, 410, 2), *many]
    assert is_linearizable(history)
    assert not is_linearizable([*history, read("b", 960, 970, 2)])


def test_ten_thousand_operations_of_one_lease_are_put_in_order() -> None:
    """Overlapping asks of many clients, with unknown ones among them."""
    draw = random.Random(3)
    operations, now = [], 0.0
    for term in range(1, 5_001):
        nonce = f"n{term}"
        begin = now - draw.random() * 40
        is_lost = draw.random() < 0.1
        operations.append(acquire(nonce, begin, INF if is_lost else now + 1, 0 if is_lost else term))
        operations.append(read(nonce, now - draw.random(), now + 5 + draw.random() * 3, term))
        now += 10
    began = time.monotonic()
    assert is_linearizable(operations)
    operations[7_001] = read(operations[6_001].nonce, 40_000, 40_001, operations[6_001].term)
    assert not is_linearizable(operations)
    assert time.monotonic() - began < 60
