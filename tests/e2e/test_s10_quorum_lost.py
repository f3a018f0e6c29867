"""Two of three nodes of the quorum are gone, and come back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support import dashboard, e2e, e2e_monitors
from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

TOLD_S = 5.0
NOISE_S = 2.0
"""What a busy machine may add to the time in which the LeaderQuorum says it."""
ALERT = 'ALERTS{alertname="LeaderLeaseQuorumLost",alertstate="firing"}'
AVAILABLE = "count(leaderlease_quorum_available == 1) == 3"
WINDOW_S = 10
RECOVERY_S = 60.0


def test_two_of_three_nodes_gone(deploy: Deploy, report: Report, tmp_path: Path) -> None:
    """Holders stop at their own deadlines and nobody new leads; it is told, the alert fires, and it heals by itself."""
    app = deploy(3.0)
    leader = app.leader()
    members = sorted(e2e.get("pods", "-n", e2e.NAMESPACE, "-l", e2e.QUORUM_LABELS), key=lambda p: p["metadata"]["name"])
    lost = members[1:]
    with e2e_monitors.prometheus(tmp_path) as prometheus, cordoned():
        prometheus.until("all nodes are scraped", lambda: prometheus.query(AVAILABLE), patience_s=60)
        began = boottime_ms()
        names = [pod["metadata"]["name"] for pod in lost]
        e2e.kubectl("delete", "pod", *names, "-n", e2e.NAMESPACE, "--force", "--grace-period=0", "--wait=false")
        for pod in lost:
            e2e.kill_processes(pod["metadata"]["uid"])
        gone = boottime_ms()
        e2e.until("the LeaderQuorum says it", lambda: e2e.quorum_condition("Available") == "False", 30)
        told = (boottime_ms() - gone) / 1000
        prometheus.until("the alert fires", lambda: prometheus.query(ALERT), patience_s=120)
        fired = (boottime_ms() - gone) / 1000
        shown = next(expression for _, expression in dashboard.queries(WINDOW_S) if "ALERTS" in expression)
        assert "LeaderLeaseQuorumLost" in [one["metric"]["alertname"] for one in prometheus.query(shown)]
        app.journal.read()
        last = max(reign.until_ms for reign in app.journal.reigns())
        assert last <= gone + app.duration_s * 1000
        assert app.journal.terms(began) == [leader.term]
    back = boottime_ms()
    after = app.journal.next_reign(leader.term, RECOVERY_S)
    report.add(
        "10 quorum lost",
        holder_stopped_after_s=round((last - began) / 1000, 3),
        told_after_s=round(told, 3),
        bound_told=TOLD_S,
        alert_after_s=round(fired, 1),
        recovered_after_s=round((after.at - back) / 1000, 3),
    )
    assert told <= TOLD_S + NOISE_S
    e2e.settle()
    app.wait_ready()


@contextlib.contextmanager
def cordoned() -> Iterator[None]:
    """No pod comes back meanwhile."""
    e2e.kubectl("cordon", *e2e.nodes())
    try:
        yield
    finally:
        e2e.kubectl("uncordon", *e2e.nodes())
