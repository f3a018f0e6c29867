"""The API server is away, and the leader dies meanwhile."""

from typing import Any

from support import e2e
from support.e2e import App, Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

AWAY_S = 60.0
KILL_AFTER_S = 20.0
SLACK_S = 0.5
CONVERGE_S = 5.0
NOISE_S = 5.0
"""What a busy machine may add to the time in which the operator converges."""
SERVICE = {"name": "app-leader", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}


def test_api_server_away_for_a_minute(deploy: Deploy, report: Report) -> None:
    """Renewals go on; a standby takes over in time; status, Service and Events show it soon after the return."""
    app = deploy(3.0, spec={"leaderService": SERVICE})
    leader = app.leader()
    e2e.until("the Service leads to the leader", lambda: traffic(app) == [leader.uid])
    with e2e.broken(("api", "stop"), ("api", "start")) as began:
        e2e.sleep_until(began + KILL_AFTER_S * 1000)
        app.journal.read()
        assert app.journal.leaderless_ms(began, boottime_ms() - 500) == []
        after, taken = app.crash(leader)
        e2e.sleep_until(began + AWAY_S * 1000)
        assert app.journal.leaderless_ms(after.at, boottime_ms() - 500) == []
    back = boottime_ms()
    e2e.until("the status shows it", lambda: app.status().get("term") == after.term)
    e2e.until("the Service leads to the new leader", lambda: traffic(app) == [after.uid])
    e2e.until("an Event tells", lambda: after.term in elected_terms(app))
    converged = (boottime_ms() - back) / 1000
    report.add(
        "5 API server away",
        failover_s=round(taken, 3),
        bound=app.duration_s + SLACK_S,
        converged_s=round(converged, 3),
        bound_converged=CONVERGE_S,
    )
    assert after.uid != leader.uid
    assert taken <= app.duration_s + SLACK_S
    assert app.status()["holder"]["podUID"] == after.uid
    assert converged <= CONVERGE_S + NOISE_S


def traffic(app: App) -> list[str]:
    """Return the pods to which the leader Service leads."""
    slices = e2e.get("endpointslices", "-n", app.namespace, "-l", "kubernetes.io/service-name=app-leader") or []
    return [endpoint["targetRef"]["uid"] for one in slices for endpoint in one.get("endpoints") or []]


def elected_terms(app: App) -> list[int]:
    """Return the terms whose election an Event tells of."""
    events: list[dict[str, Any]] = e2e.get("events.events.k8s.io", "-n", app.namespace) or []
    words = [event.get("note", "").replace(",", " ").split() for event in events if event["reason"] == "LeaderElected"]
    return [int(word.strip(".")) for note in words for word in note if word.strip(".").isdigit()]
