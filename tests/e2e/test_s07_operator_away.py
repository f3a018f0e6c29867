"""Both replicas of the operator are away for half a minute."""

from support import e2e
from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

AWAY_S = 30.0
SLACK_S = 0.5
CONVERGE_S = 30.0


def test_operator_away(deploy: Deploy, report: Report) -> None:
    """Workloads notice nothing, not even when their leader dies meanwhile; the mirror converges afterwards."""
    app = deploy(3.0)
    leader = app.leader()
    e2e.until("the status shows it", lambda: app.status().get("term") == leader.term)
    with e2e.operators_away() as began:
        e2e.sleep_until(began + AWAY_S / 2 * 1000)
        assert app.journal.leaderless_ms(began, boottime_ms() - 500) == []
        assert app.journal.terms(began) == [leader.term]
        killed = boottime_ms()
        app.force_delete(leader.pod)
        after = app.journal.next_reign(leader.term, app.duration_s + 10)
        e2e.sleep_until(began + AWAY_S * 1000)
        assert app.status()["term"] == leader.term, "somebody wrote the status while the operator was away"
    back = boottime_ms()
    e2e.until("the mirror converges", lambda: app.status().get("term") == after.term)
    converged = (boottime_ms() - back) / 1000
    report.add(
        "7 operator away",
        failover_s=round((after.at - killed) / 1000, 3),
        bound=app.duration_s + SLACK_S,
        converged_with_start_s=round(converged, 3),
    )
    assert (after.at - killed) / 1000 <= app.duration_s + SLACK_S
    assert converged <= CONVERGE_S
    assert app.status()["holder"]["podUID"] == after.uid
