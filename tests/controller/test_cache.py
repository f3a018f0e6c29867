"""What a change of an object asks for: which LeaderLease is looked at, and whether at once."""

from typing import Any

import pytest

from leaderlease.controller import cache
from leaderlease.controller.cache import Cache, Key
from leaderlease.controller.resource import LABEL_LEASE, LEADER_LEASE, LEASE, POD, Json, Kind


class Seen:
    """A cache that knows one LeaderLease, and what it asked for since."""

    def __init__(self) -> None:
        self.asked: list[tuple[Key, bool]] = []
        self.cache = Cache(lambda key, is_urgent: self.asked.append((key, is_urgent)), lambda _: None)
        self._version = 0
        self.put(LEADER_LEASE, "billing", generation=1)

    def put(self, kind: Kind, name: str, *, spec: Json | None = None, **metadata: Any) -> None:
        """Take a newer version of an object."""
        self._version += 1
        about = {"namespace": "shop", "name": name, "uid": name, "resourceVersion": str(self._version), **metadata}
        candidates = {"candidates": {"podSelector": {"matchLabels": {"app": "billing"}}}}
        self.cache.put(kind, {"metadata": about, "spec": spec if spec is not None else candidates, "status": {}})

    def take(self) -> list[tuple[Key, bool]]:
        """Return what was asked for since the last call."""
        asked, self.asked = self.asked, []
        return asked


BILLING = ("shop", "billing")


@pytest.fixture
def seen() -> Seen:
    """A LeaderLease that was looked at when it came."""
    seen = Seen()
    assert seen.take() == [(BILLING, True)]
    return seen


def test_pod_that_may_be_a_candidate_is_urgent(seen: Seen) -> None:
    """It is not admitted before somebody has looked, so it does not wait for what is only to be told."""
    seen.put(POD, "billing-0", spec={}, labels={"app": "billing"})
    assert seen.take() == [(BILLING, True)]
    seen.cache.remove(POD, "shop", "billing-0", 1_000)
    assert seen.take() == [(BILLING, True)]


@pytest.mark.parametrize("kind", [POD, LEADER_LEASE, LEASE], ids=lambda kind: kind.name)
def test_answer_that_comes_after_the_deletion_brings_nothing_back(seen: Seen, kind: Kind) -> None:
    """The operator labels a pod, somebody deletes it, and the watch is faster than the answer to the label."""
    late = {"namespace": "shop", "name": "late", "uid": "late", "resourceVersion": "1001", "labels": {"app": "billing"}}
    seen.put(kind, "late", labels={"app": "billing"})
    seen.cache.remove(kind, "shop", "late", 1_002)
    seen.take()
    seen.cache.put(kind, {"metadata": late, "spec": {}, "status": {}})
    assert seen.take() == []
    assert (seen.cache.pods("shop"), seen.cache.get(LEASE, "shop", "late")) == ([], None)
    assert seen.cache.keys(LEADER_LEASE) == [BILLING]
    seen.cache.put(kind, {"metadata": {**late, "resourceVersion": "1003"}, "spec": {}, "status": {}})
    assert len(seen.cache.pods("shop")) + len(seen.cache.keys(LEADER_LEASE)) + len(seen.cache.keys(LEASE)) == 2


def test_deletions_that_are_remembered_are_bounded(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr(cache, "DELETED_MAX", 2)
    for name in ("one", "two", "one", "three"):
        seen.cache.remove(POD, "shop", name, 1_000)
    for name in ("one", "two", "three"):
        seen.put(POD, name, spec={}, labels={"app": "billing"})
    assert [pod.name for pod in seen.cache.pods("shop")] == ["two"]


def test_pod_of_another_application_asks_for_nothing(seen: Seen) -> None:
    """Thousands of pods come and go."""
    seen.put(POD, "other-0", spec={}, labels={"app": "other"})
    assert seen.take() == []


def test_new_spec_and_deletion_are_urgent(seen: Seen) -> None:
    """The API server counts a generation for each."""
    seen.put(LEADER_LEASE, "billing", spec={"mode": "Paused"}, generation=2)
    assert seen.take() == [(BILLING, True)]
    seen.cache.remove(LEADER_LEASE, "shop", "billing", 1_000)
    assert seen.take() == [(BILLING, True)]


def test_what_the_operator_wrote_itself_is_not_urgent(seen: Seen) -> None:
    """A status, which has no generation, and a mirrored Lease."""
    seen.put(LEADER_LEASE, "billing", generation=1)
    seen.put(LEASE, "billing", labels={LABEL_LEASE: "billing"})
    assert seen.take() == [(BILLING, False), (BILLING, False)]
