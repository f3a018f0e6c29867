"""The pod of the leader is deleted by force, again and again.

The kubelet still lets a pod end in order when it is deleted by force, so a deletion is mostly a hand-over. What a lease
takes to run out is measured by killing all processes of the pod at once.
"""

import statistics

from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

TRIALS = 20
CRASHES = 10
SLACK_S = 0.3


def test_force_deletion_of_the_leader(deploy: Deploy, report: Report) -> None:
    """Another pod leads within the duration (p50: 0.3 s more), and every term is the last one plus one."""
    apps = [deploy(3.0, name="slow"), deploy(1.0, name="fast")]
    taken: dict[float, list[float]] = {app.duration_s: [] for app in apps}
    for _ in range(TRIALS):
        # While the pods of one come back, the other has its turn.
        for app in apps:
            app.wait_ready()
            leader = app.leader()
            began = boottime_ms()
            app.force_delete(leader.pod)
            after = app.journal.next_reign(leader.term, app.duration_s + 10)
            taken[app.duration_s].append((after.at - began) / 1000)
            assert after.term == leader.term + 1
            assert after.uid != leader.uid
    for duration_s, seconds in taken.items():
        bound = duration_s + SLACK_S
        report.add_trials(f"2 force deletion, d = {duration_s:g} s", "s", seconds, bound_p50=bound)
        assert statistics.median(seconds) <= bound


def test_crash_of_the_leader(deploy: Deploy, report: Report) -> None:
    """All processes of the leader's pod die at once: another pod leads when the lease has run out.

    A term may be missing: a grant to a candidate whose connection ended at that moment is given back at once.
    """
    app = deploy(1.0)
    taken, missing = [], 0
    for _ in range(CRASHES):
        leader = app.leader()
        after, seconds = app.crash(leader)
        taken.append(seconds)
        missing += after.term - leader.term - 1
        assert after.uid != leader.uid
        app.force_delete(leader.pod)
        app.wait_ready()
    report.add_trials("2 crash, d = 1 s", "s", taken, bound_p50=app.duration_s + SLACK_S, terms_missing=missing)
    assert statistics.median(taken) <= app.duration_s + SLACK_S
