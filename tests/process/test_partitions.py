"""Machines that are cut off from each other: network namespaces, and iptables between them."""

from support.checkers.belief import check_belief
from support.checkers.history import Event, Kind
from support.checkers.progress import check_progress
from support.checkers.terms import check_tokens
from support.network import Network
from support.processes import Holder, Quorum, boot_ms, until

SHORT_MS = 1000.0
NOISE_MS = 5000.0
"""What a busy machine may add to a duration."""


def start_two(quorum: Quorum, lease: str) -> tuple[Holder, Event, Holder]:
    """Alice holds on machine 0, Bob waits on machine 1."""
    alice = quorum.hold(lease, at=0)
    first = alice.wait(Kind.BELIEVE)
    bob = quorum.hold(lease, at=1)
    until(lambda: quorum.nodes[1].get(f"/v1/leases/{lease}")[1]["candidates"], "bob waits")
    return alice, first, bob


def check_takeover(quorum: Quorum, first: Event, alice: Holder, bob: Holder, cut_ms: float) -> Event:
    """Alice stops by herself before Bob believes, and he does so in time."""
    second = bob.wait(Kind.BELIEVE)
    stopped = alice.wait(Kind.UNBELIEVE, cut_ms)
    assert stopped.at_ms < second.at_ms
    assert second.term > first.term
    check_belief(quorum.history())
    check_tokens(quorum.history())
    check_progress(quorum.history(), cut_ms, {first.lease: SHORT_MS}, NOISE_MS)
    return second


def check_rejoined(network: Network, quorum: Quorum, second: Event, bob: Holder) -> None:
    """After the cut has healed node 0 votes again: with it alone Bob's node keeps his lease."""
    network.heal()
    quorum.wait_ready()
    healed_ms = boot_ms()
    bob.wait(Kind.RENEWED, healed_ms)
    quorum.nodes[2].kill()
    bob.wait(Kind.RENEWED, healed_ms + SHORT_MS)
    assert Kind.UNBELIEVE not in bob.kinds()
    assert quorum.verify(second.lease, second.term)
    check_belief(quorum.history())
    check_tokens(quorum.history())


def test_minority_side_steps_down_and_majority_side_goes_on(network: Network, split_quorum: Quorum) -> None:
    """The holder's machine is alone: it stops before anybody else leads. Healed, the machine takes part again."""
    alice, first, bob = start_two(split_quorum, "split/two")
    cut_ms = boot_ms()
    network.cut([0], [1, 2])
    second = check_takeover(split_quorum, first, alice, bob, cut_ms)
    assert split_quorum.nodes[0].get("/v1/leases/split/two")[0] == 503
    check_rejoined(network, split_quorum, second, bob)


def test_machine_that_hears_nobody(network: Network, split_quorum: Quorum) -> None:
    """Its packets arrive, and no answer does: as if it were alone."""
    alice, first, bob = start_two(split_quorum, "split/deaf")
    cut_ms = boot_ms()
    network.cut_one_way([1, 2], [0])
    second = check_takeover(split_quorum, first, alice, bob, cut_ms)
    check_rejoined(network, split_quorum, second, bob)


def test_machine_that_nobody_hears(network: Network, split_quorum: Quorum) -> None:
    """It hears the others, and they hear nothing of it."""
    alice, first, bob = start_two(split_quorum, "split/mute")
    cut_ms = boot_ms()
    network.cut_one_way([0], [1, 2])
    second = check_takeover(split_quorum, first, alice, bob, cut_ms)
    check_rejoined(network, split_quorum, second, bob)


def test_holder_finds_the_only_node_that_is_left_to_it(network: Network, split_quorum: Quorum) -> None:
    """The nearest node hangs, another is cut off: the holder finds the third one in time, and keeps its term."""
    holder = split_quorum.hold("split/moves", "--duration", "4s", at=0)
    term = holder.wait(Kind.BELIEVE).term
    cut_ms = boot_ms()
    split_quorum.nodes[0].pause()
    network.cut([2], [0])
    holder.wait(Kind.RENEWED, cut_ms + 4000)
    assert Kind.UNBELIEVE not in holder.kinds()
    assert split_quorum.verify("split/moves", term)


def test_no_majority_anywhere(network: Network, split_quorum: Quorum) -> None:
    """Three machines that each are alone: the holder stops, nobody follows; healed, somebody holds in time."""
    alice, first, bob = start_two(split_quorum, "split/three")
    cut_ms = boot_ms()
    network.cut([0], [1, 2])
    network.cut([1], [2])
    alice.wait(Kind.UNBELIEVE, cut_ms)
    until(lambda: boot_ms() > cut_ms + 3 * SHORT_MS, "three durations have passed")
    assert Kind.BELIEVE not in bob.kinds()
    assert Kind.BELIEVE not in alice.kinds(cut_ms)
    network.heal()
    healed_ms = boot_ms()
    until(
        lambda: any(e.kind is Kind.BELIEVE and e.at_ms > healed_ms for e in split_quorum.history()),
        "somebody holds",
    )
    check_progress(split_quorum.history(), healed_ms, {first.lease: SHORT_MS}, NOISE_MS)
    check_belief(split_quorum.history())
    check_tokens(split_quorum.history())
