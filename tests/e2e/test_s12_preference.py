"""A LeaderLease that prefers some of its candidates."""

import copy

from support import e2e
from support.e2e import Deploy
from support.e2e_journal import boottime_ms
from support.e2e_report import Report

PRIORITY = "leaderlease.dev/priority"
FAILBACK_S = 20.0
"""Start of a pod, the operator's admission, a look of the nodes each second, and the grace of two seconds."""


def test_priority_takes_the_lease_and_gives_it_back(deploy: Deploy, report: Report) -> None:
    """A pod with a higher priority leads after one hand-over, and is followed by another when it goes."""
    app = deploy(3.0, annotations={PRIORITY: "1"}, spec={"preference": {"policy": "Priority"}})
    leader, began = app.leader(), boottime_ms()
    template = copy.deepcopy(e2e.get("deployment", app.name, "-n", app.namespace)["spec"]["template"])
    name = f"{app.name}-preferred"
    metadata = {
        "name": name,
        "namespace": app.namespace,
        "labels": template["metadata"]["labels"],
        "annotations": {PRIORITY: "5"},
    }
    e2e.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    preferred = app.journal.next_reign(leader.term, 60)
    assert (preferred.pod, preferred.term) == (name, leader.term + 1)
    waits = app.journal.wait("the one before waits", lambda line: line.uid == leader.uid and line.leader == name, 30)
    gone = boottime_ms()
    app.force_delete(name)
    after = app.journal.next_reign(preferred.term, 30)
    report.add(
        "12 preference",
        taken_s=round((preferred.at - began) / 1000, 3),
        bound_taken=FAILBACK_S,
        given_back_s=round((after.at - gone) / 1000, 3),
    )
    assert not waits.believes
    assert after.pod != name
    assert app.journal.terms(began) == [leader.term, preferred.term, after.term]
