"""One acceptor at the edges of its rules: pages, digests, ceilings, and what is written to the disk."""

import pytest

from leaderlease.errors import InvariantViolated
from leaderlease.paxos.acceptor import (
    CEILING_BLOCK,
    DEFERRED_MAX,
    RELEASED,
    SYNC_PAGE_MAX,
    Acceptor,
    Ceiling,
    Effect,
    Persist,
    Record,
    Register,
    Respond,
)
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value, digest
from leaderlease.paxos.messages import (
    Accept,
    Accepted,
    Nack,
    Prepare,
    Promise,
    Renew,
    Renewed,
    RenewItem,
    SyncEntry,
    SyncPage,
    SyncRequest,
    WrongEpoch,
)
from support.core import ALICE, BOB, KEY, ballot_of

VALUE = Value(1, ALICE, 1_000)


def _persist(acceptor: Acceptor, effects: list[Effect], now_ms: int = 0) -> list[Effect]:
    """Complete the disk; return what is answered."""
    answers: list[Effect] = []
    waiting = list(effects)
    while waiting:
        effect = waiting.pop(0)
        if isinstance(effect, Persist):
            waiting = acceptor.persisted(effect.record, now_ms) + waiting
        else:
            answers.append(effect)
    return answers


def _accept(acceptor: Acceptor, key: str, number: int, value: Value = VALUE, now_ms: int = 0) -> None:
    answers = _persist(acceptor, acceptor.handle("3", Accept(1, key, ballot_of(number), value), now_ms), now_ms)
    assert answers == [Respond("3", Accepted(key, ballot_of(number)))]


def _with(*keys: str) -> Acceptor:
    acceptor = Acceptor(1, [], 0, 0)
    for position, key in enumerate(keys):
        _accept(acceptor, key, 11 + 10 * position)
    return acceptor


# --- promises and the disk --------------------------------------------------------------------------------------


def test_a_promise_that_goes_to_the_disk_keeps_what_was_accepted_r4() -> None:
    """R4, R5: the record of a promise holds ballot and value, for a record replaces the one before it."""
    acceptor = _with(KEY)
    (persist, *_) = acceptor.handle("4", Prepare(1, KEY, ballot_of(24), ALICE.nonce), 1)
    assert persist == Persist(Record(KEY, ballot_of(24), ballot_of(11), VALUE))
    restarted = Acceptor(1, [persist.record], 0, 2)  # type: ignore[union-attr, list-item]
    assert restarted.registers[KEY].is_live(1_000), "a value that is lost guards nobody"


@pytest.mark.parametrize(("counter", "is_volatile"), [(99, True), (100, True), (101, False)])
def test_a_durable_ceiling_covers_its_own_counter_and_no_more_r5(counter: int, is_volatile: bool) -> None:
    """R5, H5: up to the ceiling a promise costs no fsync; above it, its own record is durable first."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.persisted(Ceiling(100), 0)
    effects = acceptor.handle("4", Prepare(1, KEY, Ballot(counter, "4", 1), BOB.nonce), 0)
    promise = Promise(KEY, Ballot(counter, "4", 1), ZERO, None)
    assert (effects[0] == Respond("4", promise)) is is_volatile
    assert isinstance(effects[0], Persist) is not is_volatile


def test_a_ceiling_never_goes_down_r5() -> None:
    """R5: an older block that is reported late takes nothing back."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.persisted(Ceiling(100), 0)
    acceptor.persisted(Ceiling(50), 0)
    assert acceptor.ceiling == 100


@pytest.mark.parametrize(("counter", "asks"), [(CEILING_BLOCK // 2, False), (CEILING_BLOCK // 2 + 1, True)])
def test_the_next_ceiling_is_asked_for_when_half_of_a_block_is_left_r5(counter: int, asks: bool) -> None:
    """R5: early, and once: not with every promise of the second half."""
    acceptor = Acceptor(1, [], CEILING_BLOCK, 0)
    ballot = Ballot(CEILING_BLOCK + 1, "1", 1)
    _persist(acceptor, acceptor.handle("1", Prepare(1, KEY, ballot, ALICE.nonce), 0))
    reserved = acceptor.ceiling
    assert reserved == 2 * CEILING_BLOCK + 1
    effects = acceptor.handle("1", Prepare(1, KEY, Ballot(reserved - CEILING_BLOCK + counter, "2", 1), ALICE.nonce), 0)
    asked = [effect.record for effect in effects if isinstance(effect, Persist)]
    assert asked == ([Ceiling(reserved + counter)] if asks else [])


def test_durable_records_are_reported_in_order_or_the_acceptor_stops_r4() -> None:
    """R4, H27: a record that was not asked for proves that the disk or the driver is broken."""
    acceptor = _with(KEY)
    with pytest.raises(InvariantViolated) as caught:
        acceptor.persisted(Record(KEY, ballot_of(24), ballot_of(24), VALUE), 0)
    assert str(caught.value) == "persisted out of order"


def test_an_exact_repeat_is_answered_to_whoever_repeats_and_writes_nothing_r3() -> None:
    """R3: durable already, so it only restarts the timer."""
    acceptor = _with(KEY)
    accept = Accept(1, KEY, ballot_of(11), VALUE)
    assert acceptor.handle("5", accept, 400) == [Respond("5", Accepted(KEY, ballot_of(11)))]
    assert acceptor.registers[KEY].expires_ms == 1_401


def test_a_register_begins_with_nothing() -> None:
    """Nothing promised, nothing accepted, nothing that a renewal could name; and the digest of nothing is 0."""
    register = Register()
    assert (register.promised, register.accepted, register.value) == (ZERO, ZERO, None)
    assert (register.digest, register.fingerprint, register.expires_ms) == (b"", 0, RELEASED)
    assert Acceptor(1, [], 0, 0).digest == 0


def test_what_waits_behind_a_slow_disk_is_bounded() -> None:
    """Further messages are dropped and counted, as a network may drop them."""
    acceptor = Acceptor(1, [], 0, 0)
    acceptor.handle("3", Accept(1, KEY, ballot_of(13), VALUE), 0)
    for number in range(DEFERRED_MAX + 3):
        assert acceptor.handle("4", Prepare(1, KEY, Ballot(100 + number, "4", 1), ALICE.nonce), 0) == []
    assert acceptor.deferred_dropped == 3
    assert len(acceptor.registers[KEY].deferred or ()) == DEFERRED_MAX


def test_what_waited_is_answered_in_its_order_r4() -> None:
    """R4: a Nack for what came too late, and nothing is left behind."""
    acceptor = Acceptor(1, [], 0, 0)
    (persist,) = acceptor.handle("3", Accept(1, KEY, ballot_of(53), VALUE), 0)
    acceptor.handle("4", Prepare(1, KEY, ballot_of(24), ALICE.nonce), 0)
    acceptor.handle("5", Prepare(1, KEY, ballot_of(35), ALICE.nonce), 0)
    assert isinstance(persist, Persist)
    assert acceptor.persisted(persist.record, 0) == [
        Respond("3", Accepted(KEY, ballot_of(53))),
        Respond("4", Nack(KEY, ballot_of(24), ballot_of(53))),
        Respond("5", Nack(KEY, ballot_of(35), ballot_of(53))),
    ]
    assert acceptor.registers[KEY].deferred is None


# --- renewals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected"),
    [(12, Renewed(7, nacked=(0,))), (42, Renewed(7, unknown=(0,))), (34, Renewed(7, nacked=(0,)))],
    ids=["below the promise", "above the promise", "the value is another"],
)
def test_a_renewal_of_something_else_is_refused_or_wants_the_value_r2(number: int, expected: Renewed) -> None:
    """R2: below the promise it is a refusal; above, the proposer should send the value (NEED_VALUE)."""
    acceptor = _with(KEY)
    _persist(acceptor, acceptor.handle("4", Prepare(1, KEY, ballot_of(35), ALICE.nonce), 0))
    ballot = ballot_of(number)
    item = RenewItem(KEY, ballot.counter, digest(VALUE))
    assert acceptor.renew(Renew(1, 7, ballot.member, 1, (item,)), 1) == expected


def test_each_item_of_a_batch_is_weighed_on_its_own_r2() -> None:
    """R2, H34: what is not held here does not spoil what is."""
    acceptor = _with("l/a", "l/b")
    items = tuple(RenewItem(key, counter, digest(VALUE)) for key, counter in (("l/x", 1), ("l/a", 1), ("l/b", 2)))
    assert acceptor.renew(Renew(1, 7, "1", 1, items), 500) == Renewed(7, unknown=(0,))
    assert [acceptor.registers[key].expires_ms for key in ("l/a", "l/b")] == [1_501, 1_501]
    assert "l/x" not in acceptor.registers


# --- catch-up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "limit", "keys", "next_after"),
    [
        ("", 1, ["l/a"], "l/a"),
        ("", 0, ["l/a"], "l/a"),
        ("", 2, ["l/a", "l/b"], "l/b"),
        ("", 3, ["l/a", "l/b", "l/c"], ""),
        ("", 9, ["l/a", "l/b", "l/c"], ""),
        ("l/a", 1, ["l/b"], "l/b"),
        ("l/a", 2, ["l/b", "l/c"], ""),
        ("l/b", 1, ["l/c"], ""),
        ("l/c", 1, [], ""),
    ],
)
def test_catch_up_comes_in_pages_without_gaps_or_repeats(
    after: str, limit: int, keys: list[str], next_after: str
) -> None:
    """H30: in key order; each page says where the next begins, the last says nothing."""
    acceptor = _with("l/c", "l/a", "l/b")
    (effect,) = acceptor.sync("2", SyncRequest(1, 5, after, limit))
    assert isinstance(effect, Respond)
    assert effect.origin == "2"
    assert isinstance(effect.reply, SyncPage)
    numbers = {"l/c": 11, "l/a": 21, "l/b": 31}
    assert effect.reply == SyncPage(
        5, tuple(SyncEntry(key, ballot_of(numbers[key]), VALUE) for key in keys), next_after
    )


def test_a_page_is_bounded_whatever_is_asked_for() -> None:
    """The bound has a name."""
    acceptor = Acceptor(1, [], 0, 0)
    for number in range(SYNC_PAGE_MAX + 1):
        acceptor._register(f"l/{number:04}")
    (effect,) = acceptor.sync("2", SyncRequest(1, 5, "", 10**9))
    assert effect == Respond("2", SyncPage(5, (), f"l/{SYNC_PAGE_MAX - 1:04}")), "promises alone are no values"


def test_catch_up_of_another_epoch_gets_ours_r8() -> None:
    """R8, H28: nothing is copied across epochs."""
    assert _with(KEY).sync("2", SyncRequest(2, 5, "", 9)) == [Respond("2", WrongEpoch("", ZERO, 1))]


def test_a_digest_is_what_a_message_can_hold() -> None:
    """All of 64 bits, and not one more: msgpack has no larger integers."""
    digests = [_with(f"l/{number}" * 40).digest for number in range(64)]
    assert 1 << 63 <= max(digests) < 1 << 64


def test_the_digest_is_that_of_the_disk_whatever_the_order_of_the_writes() -> None:
    """H30: two nodes with the same registers agree, also after a restart; another key, ballot or value differs."""
    acceptor = _with("l/a", "l/b")
    _accept(acceptor, "l/a", 91, Value(2, BOB, 1_000))
    records = [Record(key, one.promised, one.accepted, one.value) for key, one in acceptor.registers.items()]
    restarted = Acceptor(1, reversed(records), 0, 0)
    assert acceptor.digest == restarted.digest != 0
    alone = _with("l/a")
    assert alone.digest == Acceptor(1, [Record("l/a", ballot_of(11), ballot_of(11), VALUE)], 0, 0).digest
    assert alone.digest >> 32, "64 bits, and not 32"
    other = Acceptor(1, [], 0, 0)
    _accept(other, "l/a", 91, Value(2, BOB, 1_000))
    _accept(other, "l/b", 21)
    assert other.digest == acceptor.digest
    for key, number, value in (("l/c", 21, VALUE), ("l/b", 22, VALUE), ("l/b", 21, Value(1, BOB, 1_000))):
        differs = Acceptor(1, [], 0, 0)
        _accept(differs, "l/a", 91, Value(2, BOB, 1_000))
        _accept(differs, key, number, value)
        assert differs.digest != acceptor.digest


def test_live_registers_are_those_whose_guard_stands() -> None:
    """At this instant: a timer that ends is not counted any more, nor is what was never held."""
    acceptor = _with("l/a", "l/b")
    _accept(acceptor, "l/b", 92, Value(2, None, 1_000))
    assert [key for key, _ in acceptor.live(1_000)] == ["l/a"]
    assert list(acceptor.live(1_001)) == []


def test_what_is_left_of_a_timer() -> None:
    """Nothing where nobody holds, None where no time ends it, and never less than nothing."""
    acceptor = _with("l/a")
    _accept(acceptor, "l/b", 22, Value(1, ALICE, None))
    _accept(acceptor, "l/c", 33, Value(1, None, 1_000))
    left = [[acceptor.registers[key].remaining_ms(now_ms) for key in ("l/a", "l/b", "l/c")] for now_ms in (1, 5_000)]
    assert left == [[1_000, None, 0], [0, None, 0]]
