"""The Kubernetes node of the leader loses power, and a node of the quorum with it."""

from support import e2e
from support.e2e import Deploy
from support.e2e_report import Report

SLACK_S = 0.5


def test_power_loss_of_the_leader_s_node(deploy: Deploy, report: Report) -> None:
    """Somebody else leads within the duration and 0.5 s, while Kubernetes still calls the dead node ready."""
    app = deploy(3.0)
    leader = app.leader()
    members = {pod["spec"]["nodeName"] for pod in e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.QUORUM_LABELS)}
    assert leader.node in members, "the quorum is not spread over all nodes"
    with e2e.broken(("node", "kill", leader.node), ("node", "start", leader.node)) as began:
        after = app.journal.next_reign(leader.term, app.duration_s + 10)
        is_still_ready = e2e.is_node_ready(leader.node)
        taken = (after.at - began) / 1000
        report.add("3 power loss", seconds=round(taken, 3), bound=app.duration_s + SLACK_S)
    assert after.node != leader.node
    assert is_still_ready
    assert taken <= app.duration_s + SLACK_S
    e2e.settle()
    app.wait_ready()
