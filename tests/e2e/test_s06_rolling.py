"""Rolling updates: of the quorum, and of the application."""

from support import e2e
from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

LEADERLESS_MS = 300.0
NOISE_MS = 700.0
"""What starting and ending pods on the same two cores may add."""


def test_rolling_restart_of_the_quorum(deploy: Deploy, report: Report) -> None:
    """No lease is lost: the leader goes on in its term, without a break, from before the restart to after it."""
    app = deploy(3.0)
    leader = app.leader()
    began = boottime_ms()
    e2e.kubectl("rollout", "restart", e2e.QUORUM, "-n", e2e.NAMESPACE)
    e2e.kubectl("rollout", "status", e2e.QUORUM, "-n", e2e.NAMESPACE, "--timeout=180s")
    e2e.settle()
    ended = boottime_ms()
    now = app.leader()
    report.add("6 rolling restart of the quorum", seconds=round((ended - began) / 1000, 1), leases_lost=0)
    assert (now.uid, now.term) == (leader.uid, leader.term)
    assert app.journal.leaderless_ms(began, boottime_ms() - 500) == []
    assert app.journal.terms(began) == [leader.term]


def test_rolling_update_of_the_application(deploy: Deploy, report: Report) -> None:
    """The leadership changes hands once at most, to a pod that stays, with a short pause."""
    app = deploy(3.0)
    leader = app.leader()
    old = {pod["metadata"]["uid"] for pod in app.pods()}
    began = boottime_ms()
    e2e.kubectl("rollout", "restart", f"deployment/{app.name}", "-n", app.namespace)
    e2e.kubectl("rollout", "status", f"deployment/{app.name}", "-n", app.namespace, "--timeout=120s")
    after = app.journal.next_reign(leader.term, 30)
    e2e.until("the old pods are gone", lambda: not old & {pod["metadata"]["uid"] for pod in all_pods(app)})
    app.wait_ready()
    gaps = app.journal.leaderless_ms(began, boottime_ms() - 500)
    terms = app.journal.terms(began)
    report.add(
        "6 rolling update of the application",
        hand_overs=len(terms) - 1,
        leaderless_ms=[round(length, 1) for _, length in gaps],
        bound_ms=LEADERLESS_MS,
    )
    assert after.uid not in old
    assert terms == [leader.term, leader.term + 1]
    assert sum(length for _, length in gaps) <= LEADERLESS_MS + NOISE_MS


def all_pods(app: e2e.App) -> list[dict[str, dict[str, str]]]:
    """Return the pods of an application, those that end included."""
    found: list[dict[str, dict[str, str]]] = e2e.get("pods", "-n", app.namespace, "-l", f"app={app.name}")
    return found
