"""A node that is told to stop."""

import re

from support.checkers.history import Kind
from support.processes import Node, Quorum, until

COMMITTED = re.compile(r"^leaderlease_proposals_committed_total (\S+)$", re.MULTILINE)


def committed(node: Node) -> float:
    """Return how many values of this node's a majority accepted since its start."""
    found = COMMITTED.search(bytes(node.get("/metrics")[1]).decode())
    assert found is not None
    return float(found[1])


def test_a_node_that_leaves_votes_while_others_take_over(quorum: Quorum) -> None:
    """One member is frozen, one is told to stop: the third gets the leaver's vote for the lease that went to it."""
    leaver, taker, frozen = quorum.nodes
    holder = quorum.hold("leaving/voter", "--duration", "30s")
    term = holder.wait(Kind.BELIEVE).term
    before = committed(taker)
    frozen.pause()
    leaver.terminate()
    until(lambda: committed(taker) > before, "the lease is taken over by the two that run")
    assert leaver.exit_code() == 0
    frozen.go_on()
    assert quorum.verify("leaving/voter", term)
    assert Kind.UNBELIEVE not in holder.kinds()
