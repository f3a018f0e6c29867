"""The pod of the leader is deleted by force, again and again."""

import statistics

import pytest

from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

TRIALS = 20
SLACK_S = 0.3


@pytest.mark.parametrize("duration_s", [3.0, 1.0])
def test_force_deletion_of_the_leader(duration_s: float, deploy: Deploy, report: Report) -> None:
    """Another pod leads within the duration (p50: 0.3 s more), and every term is the last one plus one."""
    app = deploy(duration_s)
    taken = []
    for _ in range(TRIALS):
        leader = app.leader()
        began = boottime_ms()
        app.force_delete(leader.pod)
        after = app.journal.next_reign(leader.term, duration_s + 10)
        taken.append((after.at - began) / 1000)
        assert after.term == leader.term + 1
        assert after.uid != leader.uid
        app.wait_ready()
    report.add_trials(f"2 force deletion, d = {duration_s:g} s", "s", taken, bound_p50=duration_s + SLACK_S)
    assert statistics.median(taken) <= duration_s + SLACK_S
