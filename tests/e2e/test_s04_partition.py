"""The Kubernetes node of the leader is cut off from everything, and comes back."""

from support import e2e
from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

CUT_S = 20.0
REJOIN_S = 10.0


def test_partition_of_the_leader_s_node(deploy: Deploy, report: Report) -> None:
    """The old leader stops believing before anybody else begins, and comes back as a standby of the new one."""
    app = deploy(3.0)
    leader = app.leader()
    with e2e.broken(("node", "partition", leader.node), ("node", "heal", leader.node)) as began:
        after = app.journal.next_reign(leader.term, app.duration_s + 10)
        e2e.sleep_until(began + CUT_S * 1000)
    healed = boottime_ms()
    old = next(reign for reign in app.journal.reigns() if reign.term == leader.term)
    assert old.until_ms < after.at
    assert after.node != leader.node

    back = app.journal.wait(
        "the old leader knows the new one",
        lambda line: line.uid == leader.uid and not line.believes and line.leader == after.pod and not line.is_stale,
        REJOIN_S + 10,
    )
    assert back.state == "waiting"
    report.add(
        "4 partition",
        stopped_after_s=round((old.until_ms - began) / 1000, 3),
        next_leader_after_s=round((after.at - began) / 1000, 3),
        between_s=round((after.at - old.until_ms) / 1000, 3),
        standby_after_healing_s=round((back.at - healed) / 1000, 3),
    )
    assert app.journal.terms(healed) == [after.term]
