"""The application's health decides who may lead."""

from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

HEALTH = {
    "leaderlease.dev/health-http": "8080/healthz",
    "leaderlease.dev/health-period-seconds": "0.5",
    "leaderlease.dev/health-timeout-seconds": "0.5",
    "leaderlease.dev/health-failures": "3",
    "leaderlease.dev/step-down-grace-seconds": "1",
}
BUDGET_S = 3 * (0.5 + 0.5)
GRACE_S = 1.0
SLACK_S = 0.5


def test_health_gate(deploy: Deploy, report: Report) -> None:
    """A failing leader yields within its budget; a failing candidate never leads, even if nobody else is there."""
    app = deploy(3.0, annotations=HEALTH)
    leader = app.leader()
    standbys = sorted({line.pod for line in app.journal.latest.values()} - {leader.pod})
    sick, sound = standbys
    app.mark(sick, True)
    app.journal.wait("the sick candidate is out", lambda line: line.pod == sick and line.state == "unhealthy", 30)

    began = boottime_ms()
    app.mark(leader.pod, True)
    stopped = app.journal.wait(
        "the leader stops", lambda line: line.uid == leader.uid and not line.believes, BUDGET_S + 10
    )
    after = app.journal.next_reign(leader.term, GRACE_S + 10)
    yielded, taken = (stopped.at - began) / 1000, (after.at - began) / 1000
    report.add(
        "8 health gate",
        yielded_s=round(yielded, 3),
        bound_yield=BUDGET_S,
        next_leader_s=round(taken, 3),
        bound_next=BUDGET_S + GRACE_S + SLACK_S,
    )
    assert after.pod == sound
    assert yielded <= BUDGET_S + SLACK_S
    assert taken <= BUDGET_S + GRACE_S + SLACK_S

    app.mark(sound, True)
    app.journal.wait("nobody leads", lambda line: line.pod == sound and not line.believes, BUDGET_S + 10)
    alone = boottime_ms()
    app.journal.wait("time passes", lambda line: line.at > alone + 2 * app.duration_s * 1000, 30)
    assert app.journal.terms(alone) == []

    app.mark(sick, False)
    assert app.journal.next_reign(after.term, 30).pod == sick
