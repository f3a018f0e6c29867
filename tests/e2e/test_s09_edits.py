"""A LeaderLease is edited, deleted and created again."""

import json

from support import e2e
from support.e2e import App, Deploy
from support.e2e_journal import Line, boottime_ms
from support.e2e_report import Report

DELETION_S = 10.0
QUIET_S = 3.0
"""For how long it is watched that nobody leads: three times the lease duration."""


def declared(app: App) -> None:
    """Wait until the quorum has what the object says."""

    def is_declared() -> bool:
        body = app.leaderlease()
        return body["status"].get("observedGeneration") == body["metadata"]["generation"]

    e2e.until("declared", is_declared, 30)


def assert_goes_on(app: App, leader: Line, since_ms: float) -> None:
    """The leader went on in its term, without a break."""
    app.journal.read()
    assert app.journal.leaderless_ms(since_ms, boottime_ms() - 500) == []
    assert app.journal.terms(since_ms) == [leader.term]


def assert_nobody_follows(app: App, leader: Line) -> None:
    """The leader goes, and nobody leads after it."""
    app.force_delete(leader.pod)
    app.journal.wait("the leader ends", lambda line: line.uid == leader.uid and not line.believes, 10)
    gone = boottime_ms()
    e2e.sleep_until(gone + QUIET_S * 1000)
    assert app.journal.terms(gone) == []


def test_edits(deploy: Deploy, report: Report) -> None:
    """A new duration is that of the next grant; who is not admitted any more goes on holding, and nobody new leads."""
    app = deploy(3.0)
    leader, began = app.leader(), boottime_ms()
    app.patch({"leaseDuration": "1s", "renewDeadline": "600ms", "retryPeriod": "150ms"})
    declared(app)
    assert_goes_on(app, leader, began)
    app.force_delete(leader.pod)
    after = app.journal.next_reign(leader.term, 10)
    assert after.until - after.asked <= 1000
    app.wait_ready()

    figures = {}
    nobody, anybody = ({"candidates": {"serviceAccountNames": names}} for names in (["nobody"], []))
    for name, edit, undo in (("candidates", nobody, anybody), ("paused", {"mode": "Paused"}, {"mode": "Active"})):
        leader, began = app.leader(), boottime_ms()
        app.patch(edit)
        declared(app)
        assert_goes_on(app, leader, began)
        assert_nobody_follows(app, leader)
        admitted = boottime_ms()
        app.patch(undo)
        after = app.journal.next_reign(leader.term, 30)
        figures[f"{name}_admitted_again_s"] = round((after.at - admitted) / 1000, 3)
        app.wait_ready()
    report.add("9 edits", **figures)


def test_deletion_and_creation(deploy: Deploy, report: Report) -> None:
    """Deletion does not hang, nobody new leads under a deleted lease, and the term goes on rising afterwards."""
    app = deploy(1.0)
    leader, body, began = app.leader(), app.leaderlease(), boottime_ms()
    e2e.kubectl("delete", "ll", app.name, "-n", app.namespace, f"--timeout={DELETION_S:g}s")
    deleted = (boottime_ms() - began) / 1000
    assert_nobody_follows(app, leader)
    metadata = {"name": app.name, "namespace": app.namespace}
    e2e.kubectl("create", "-f", "-", stdin=json.dumps({**body, "metadata": metadata}))
    after = app.journal.next_reign(leader.term, 30)
    report.add("9 deletion", seconds=round(deleted, 3), bound=DELETION_S, terms=[leader.term, after.term])
    assert after.term > leader.term
    e2e.until("the status shows it", lambda: app.status().get("term") == after.term, 30)
