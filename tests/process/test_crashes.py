"""Nodes and holders that are killed, stopped and restarted."""

import time

import leaderlease
from leaderlease.client.core import HELLO_TIMEOUT_MS
from leaderlease.node.server import SILENCE_MAX_S
from support.checkers.belief import check_belief
from support.checkers.history import Kind
from support.checkers.terms import check_durability, check_fence, check_tokens
from support.fence import FencedResource
from support.processes import PATIENCE_S, Holder, Quorum, boot_ms, until

NOISE_S = 3.0
"""What a busy machine may add to a bound."""


def check_holders(quorum: Quorum) -> None:
    """Run the checkers that need nothing but what holders recorded."""
    history = quorum.history()
    check_belief(history)
    check_tokens(history)


def check_kept(holder: Holder, since_ms: float, for_ms: float) -> None:
    """Wait until the holder renewed after ``for_ms``; it never stopped, and its term is the one that it began with."""
    holder.wait(Kind.RENEWED, since_ms + for_ms)
    assert Kind.UNBELIEVE not in holder.kinds()
    assert len({event.term for event in holder.history() if event.kind is not Kind.ASKED}) == 1


def test_killed_nodes_cost_no_lease_and_no_term(quorum: Quorum) -> None:
    """One node after the other dies by SIGKILL and comes back; the holder keeps believing under one term."""
    holder = quorum.hold("crash/nodes", "--duration", "3s")
    term = holder.wait(Kind.BELIEVE).term
    for node in quorum.nodes:
        killed_ms = boot_ms()
        node.kill()
        check_kept(holder, killed_ms, 1000)
        quorum.start(node)
    assert quorum.verify("crash/nodes", term)


def test_killed_holder_is_followed_after_its_validity(quorum: Quorum) -> None:
    """The next candidate holds with a higher term, and not before the dead one's validity ended."""
    alice = quorum.hold("crash/holder")
    term = alice.wait(Kind.BELIEVE).term
    bob = quorum.hold("crash/holder", at=1)
    until(lambda: quorum.nodes[1].get("/v1/leases/crash/holder")[1]["candidates"], "bob waits")
    alice.kill()
    assert bob.wait(Kind.BELIEVE).term == term + 1
    check_holders(quorum)
    assert not quorum.verify("crash/holder", term)


def test_stopped_holder_does_not_believe_when_it_goes_on(quorum: Quorum) -> None:
    """Stopped past its lease: nothing remains before it hears of anybody, and token and resource refuse it."""
    resource = FencedResource(quorum.folder / "stopped.writes.jsonl", "crash/stopped")
    alice = quorum.hold("crash/stopped")
    first = alice.wait(Kind.BELIEVE)
    bob = quorum.hold("crash/stopped", at=1)
    alice.pause()
    second = bob.wait(Kind.BELIEVE)
    assert resource.put(second.nonce, second.term)
    on_ms = boot_ms()
    alice.go_on()
    woke = alice.wait(Kind.WOKE, on_ms)
    assert woke.nonce == first.nonce
    assert woke.until_ms == woke.at_ms
    alice.wait(Kind.UNBELIEVE, on_ms)
    assert not {Kind.BELIEVE, Kind.RENEWED} & alice.kinds(on_ms)
    check_holders(quorum)
    assert not quorum.verify("crash/stopped", first.term)
    assert quorum.verify("crash/stopped", second.term)
    assert not resource.put(first.nonce, first.term)
    check_fence(quorum.history())


def test_candidate_that_went_without_a_word_is_not_elected(quorum: Quorum) -> None:
    """Its connection stays open and silent, as when its machine has lost power: the node forgets it, not for good."""
    alice = quorum.hold("crash/silent")
    alice.wait(Kind.BELIEVE)
    bob = quorum.hold("crash/silent", at=1)

    def candidates() -> int:
        return sum(len(node.get("/v1/leases/crash/silent")[1]["candidates"]) for node in quorum.nodes)

    until(candidates, "bob waits")
    bob.pause()
    until(lambda: not candidates(), "bob is forgotten", SILENCE_MAX_S + PATIENCE_S)
    bob.go_on()
    until(candidates, "bob waits again")
    alice.kill()
    bob.wait(Kind.BELIEVE)


def test_all_nodes_killed_at_once(quorum: Quorum) -> None:
    """With their disks intact terms go on rising, and a lease without end is still held by its holder."""
    lock = quorum.hold("crash/lock", "--duration", "never")
    kept = lock.wait(Kind.BELIEVE)
    timed = quorum.hold("crash/timed", at=1)
    before = timed.wait(Kind.BELIEVE)
    for node in quorum.nodes:
        node.kill()
    timed.wait(Kind.UNBELIEVE)
    check_durability(quorum.history(), [node.terms() for node in quorum.nodes])
    quorum.start()
    assert timed.wait(Kind.BELIEVE, before.at_ms + 1).term > before.term
    assert quorum.verify("crash/lock", kept.term)
    denied = quorum.ask(lambda client: client.try_acquire("crash/lock", "mallory"))
    assert isinstance(denied, leaderlease.Denied)
    assert denied.holder is not None
    assert denied.holder.nonce == kept.nonce
    assert Kind.UNBELIEVE not in lock.kinds()
    check_holders(quorum)


def test_rolling_restart_never_loses_a_lease_of_one_second(quorum: Quorum) -> None:
    """Each node leaves by SIGTERM and comes back before the next one does."""
    holder = quorum.hold("crash/rolling")
    term = holder.wait(Kind.BELIEVE).term
    for node in quorum.nodes:
        assert node.end() == 0
        quorum.start(node)
    check_kept(holder, boot_ms(), 1000)
    assert quorum.verify("crash/rolling", term)


def test_leaving_node_sends_its_sessions_elsewhere(quorum: Quorum) -> None:
    """SIGTERM of the node that serves the holder: another one serves it, and the term stays."""
    holder = quorum.hold("crash/leaving", at=2)
    term = holder.wait(Kind.BELIEVE).term
    assert quorum.serving(holder) is quorum.nodes[2]
    left_ms = boot_ms()
    assert quorum.nodes[2].end() == 0
    check_kept(holder, left_ms, 1000)
    assert quorum.serving(holder) is not quorum.nodes[2]
    assert quorum.verify("crash/leaving", term)


def test_stopped_node_costs_its_clients_one_timeout(quorum: Quorum) -> None:
    """A node that hangs with its connections open: its holder goes elsewhere in time, a newcomer after one hello."""
    holder = quorum.hold("crash/hung", "--duration", "3s")
    holder.wait(Kind.BELIEVE)
    assert quorum.serving(holder) is quorum.nodes[0]
    paused_ms = boot_ms()
    quorum.nodes[0].pause()
    began_s = time.monotonic()
    granted = quorum.ask(lambda client: client.try_acquire("crash/newcomer", "bob"), 0)
    assert granted
    assert time.monotonic() - began_s < HELLO_TIMEOUT_MS / 1000 + NOISE_S
    check_kept(holder, paused_ms, 3000)
    assert quorum.serving(holder) is not quorum.nodes[0]
