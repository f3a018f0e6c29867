"""Disks that fill up, fail, are lost, and come back as they were before."""

import shutil
from pathlib import Path

import leaderlease
from leaderlease.errors import DiskFailed, WrongDirectory
from support.breaking import FSYNC, Tracer, fill, tmpfs
from support.checkers.history import Kind
from support.checkers.terms import check_durability
from support.processes import Node, Quorum, boot_ms, until


def write_until_it_ends(quorum: Quorum, node: Node) -> None:
    """Let leases change hands until a node that cannot write has left; each asks all members to write."""

    async def one_more(client: leaderlease.Client) -> None:
        lease = await client.acquire("disk/busy", "writer", duration="1s")
        await lease.release()

    def has_ended() -> bool:
        quorum.ask(one_more, 1, 0)
        return not node.is_running

    until(has_ended, f"{node.name} leaves")


def check_gone(quorum: Quorum, node: Node, code: int, *texts: str) -> None:
    """A node has left with a code and a reason; the others go on without it."""
    assert node.exit_code() == code
    tail = node.log_tail()
    assert all(text in tail for text in texts), tail
    assert "Traceback" not in node.log.read_text()
    assert quorum.ask(lambda client: client.try_acquire("disk/after", "somebody"), 0)


def check_nothing_lost(quorum: Quorum) -> None:
    """Stop all and look at their disks."""
    for node in quorum.nodes:
        node.kill()
    check_durability(quorum.history(), [node.terms() for node in quorum.nodes])


def restart_after_copy(node: Node, quorum: Quorum, copy: Path) -> None:
    """Stop a node, copy its disk, and start it again: the copy is of an earlier life."""
    node.end()
    shutil.copytree(node.data, copy)
    quorum.start(node)


def test_full_disk_ends_one_node(own_quorum: Quorum) -> None:
    """It leaves with code 74 and says so; the lease is kept, and after room is made it comes back."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    disk = quorum.folder / "small"
    with tmpfs(disk, "4m"):
        node.data = disk / "data"
        quorum.start()
        holder = quorum.hold("disk/full", "--duration", "3s")
        term = holder.wait(Kind.BELIEVE).term
        full_ms = boot_ms()
        filler = fill(disk)
        write_until_it_ends(quorum, node)
        check_gone(quorum, node, DiskFailed.exit_code, f"{node.data}: a write failed:", "Free or replace the disk")
        holder.wait(Kind.RENEWED, full_ms + 1000)
        assert Kind.UNBELIEVE not in holder.kinds()
        filler.unlink()
        quorum.start(node)
        assert quorum.verify("disk/full", term)
        check_nothing_lost(quorum)


def test_failed_fsync_ends_one_node(own_quorum: Quorum) -> None:
    """One EIO is enough: it is not tried again, and the node serves nobody any more."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    quorum.start()
    holder = quorum.hold("disk/fsync", "--duration", "3s")
    term = holder.wait(Kind.BELIEVE).term
    tracer = Tracer(node, FSYNC, "error=EIO", quorum.folder / "strace.log")
    try:
        failed_ms = boot_ms()
        write_until_it_ends(quorum, node)
        check_gone(quorum, node, DiskFailed.exit_code, f"{node.data}: a write failed:")
        assert tracer.count == 1
    finally:
        tracer.detach()
    holder.wait(Kind.RENEWED, failed_ms + 1000)
    assert Kind.UNBELIEVE not in holder.kinds()
    quorum.start(node)
    assert quorum.verify("disk/fsync", term)
    check_nothing_lost(quorum)


def test_stalled_disks_cost_no_holder(own_quorum: Quorum) -> None:
    """R2: every fsync of every node takes three seconds; who holds goes on, for a renewal needs no disk."""
    quorum = own_quorum
    quorum.start()
    holder = quorum.hold("disk/stalled", "--duration", "3s")
    term = holder.wait(Kind.BELIEVE).term
    tracers = [
        Tracer(node, FSYNC, "delay_enter=3000000", quorum.folder / f"{node.name}.strace") for node in quorum.nodes
    ]
    try:
        newcomer = quorum.hold("disk/another", at=1)
        until(lambda: all(tracer.count for tracer in tracers), "every disk is written to")
        holder.wait(Kind.RENEWED, boot_ms() + 6000)
    finally:
        for tracer in tracers:
            tracer.detach()
    assert Kind.UNBELIEVE not in holder.kinds()
    newcomer.wait(Kind.BELIEVE)
    assert quorum.verify("disk/stalled", term)
    check_nothing_lost(quorum)


def test_emptied_disk_does_not_vote(own_quorum: Quorum) -> None:
    """H24: the node finds its quorum running without this disk and ends; it never counts as its old self."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    quorum.start()
    term = quorum.hold("disk/emptied", "--duration", "never").wait(Kind.BELIEVE).term
    node.kill()
    shutil.rmtree(node.data)
    quorum.launch(node)
    check_gone(quorum, node, WrongDirectory.exit_code, "this disk is blank", "cannot vote as the old one")
    assert quorum.verify("disk/emptied", term)


def test_rolled_back_disk_is_refused(own_quorum: Quorum) -> None:
    """H24: a disk as it was two lives ago promised things since that it forgot; no peer talks to it."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    quorum.start()
    copy = quorum.folder / "copy"
    restart_after_copy(node, quorum, copy)
    node.end()
    quorum.start(node)
    node.kill()
    shutil.rmtree(node.data)
    copy.rename(node.data)
    quorum.launch(node)
    check_refused(quorum, node, "its disk was rolled back")


def test_disk_that_repeats_its_latest_life_is_refused(own_quorum: Quorum) -> None:
    """H24: rolled back by one start only, the number of the life is one that peers know, its nonce is not."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    quorum.start()
    copy = quorum.folder / "copy"
    restart_after_copy(node, quorum, copy)
    node.kill()
    shutil.rmtree(node.data)
    copy.rename(node.data)
    quorum.launch(node)
    check_refused(quorum, node, "its disk was copied")


def test_copied_disk_is_refused_beside_the_original(own_quorum: Quorum) -> None:
    """H24: two processes on copies of one disk are never two votes: nobody knows which of them kept its promises."""
    quorum, node = own_quorum, own_quorum.nodes[2]
    quorum.start()
    restart_after_copy(node, quorum, quorum.folder / "twin")
    twin = Node(node.name, quorum.folder / "twin", node.place, tuple(_other_ports(quorum)))
    twin.popen = twin.place.start(quorum.command(twin), twin.log, {})
    try:
        for one in (twin, node):
            until(lambda one=one: one.knows("its disk was"), "both are told that their disk was copied")
        assert not twin.is_ready()
        assert not node.is_ready()
        assert quorum.ask(lambda client: client.try_acquire("disk/copied", "alice"), 0), "the others go on"
    finally:
        twin.kill()


def check_refused(quorum: Quorum, node: Node, why: str) -> None:
    """Peers say why they refuse a node, and it is no vote: one more loss, and nobody gets anything."""
    until(lambda: node.knows(why), f"{node.name} is told that {why}")
    assert quorum.ask(lambda client: client.try_acquire("disk/refused", "alice"), 0)
    quorum.nodes[1].kill()

    async def ask(client: leaderlease.Client) -> str:
        try:
            await client.try_acquire("disk/another", "bob")
        except leaderlease.QuorumUnavailable as error:
            return str(error)
        return ""

    until(lambda: "1 of 3 nodes answer" in quorum.ask(ask, 0), "no quorum without the refused node")


def _other_ports(quorum: Quorum) -> list[int]:
    spare = Quorum(quorum.folder / "spare", quorum.places[:1])
    return [spare.nodes[0].client_port, spare.nodes[0].peer_port, spare.nodes[0].http_port]
