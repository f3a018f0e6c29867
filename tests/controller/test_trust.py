"""Running pods are given the authorities of the nodes as they are now."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from leaderlease.controller.actions import Action, Annotate
from leaderlease.controller.cache import Cache
from leaderlease.controller.resource import LEADER_LEASE, LEADER_QUORUM, POD, Pod, certificates_digest, pod_of
from leaderlease.controller.trust import Trust, plan_trust

OLD, NEW = (trustme.CA().cert_pem.bytes().decode() for _ in range(2))


def body(name: str = "billing-0", ca: str = OLD, **annotations: str) -> dict[str, Any]:
    """Return an injected pod."""
    notes = {"leaderlease.dev/status": "injected", **({"leaderlease.dev/ca": ca} if ca else {}), **annotations}
    metadata = {"namespace": "shop", "name": name, "uid": f"uid-{name}", "resourceVersion": "1", "annotations": notes}
    return {"metadata": {**metadata, "labels": {"leaderlease.dev/inject": "billing"}}, "spec": {}}


def pod(ca: str = OLD, **changes: Any) -> Pod:
    """Return an injected pod, as we keep it."""
    return msgspec.structs.replace(pod_of(body(ca=ca)), **changes)


def test_a_pod_with_other_authorities_is_given_ours() -> None:
    """Whatever it has: in an overlap both, after it the new one alone."""
    for has, wanted in ((OLD, OLD + NEW), (OLD + NEW, NEW), (OLD, NEW)):
        assert plan_trust(pod(has), wanted, is_ours=True) == [Annotate(pod(has), "leaderlease.dev/ca", wanted)]


@pytest.mark.parametrize(
    ("one", "wanted", "is_ours"),
    [
        (pod(), OLD, True),
        (pod(f"{NEW}\n\n{OLD.strip()}"), OLD + NEW, True),
        (pod(), NEW, False),
        (pod(""), NEW, True),
        (pod(is_over=True), NEW, True),
        (pod(is_terminating=True), NEW, True),
        (pod(sidecar="own"), NEW, True),
    ],
    ids=["has them", "in another order", "of others", "without TLS", "over", "going", "hand-written"],
)
def test_others_are_left_alone(one: Pod, wanted: str, is_ours: bool) -> None:
    """Nothing is written that already says what is wanted, or that is not ours to write."""
    assert plan_trust(one, wanted, is_ours=is_ours) == []


def test_the_same_certificates_are_the_same_however_they_are_written() -> None:
    """Order, spaces and repetition do not matter; another certificate does."""
    assert certificates_digest(OLD + NEW) == certificates_digest(f"# both\n{NEW}  \n{OLD}{NEW}")
    assert certificates_digest(OLD) != certificates_digest(OLD + NEW)
    assert certificates_digest("none") == ""


def known(quorum_of: str = "leaderlease-system") -> Cache:
    """Return a cache with one pod, its LeaderLease, and the LeaderQuorum of an operator."""
    cache = Cache(lambda key, is_urgent: None, lambda name: None)
    cache.put(LEADER_LEASE, {"metadata": {"namespace": "shop", "name": "billing", "resourceVersion": "1"}, "spec": {}})
    labels = {"leaderlease.dev/operator": quorum_of}
    cache.put(LEADER_QUORUM, {"metadata": {"name": "default", "resourceVersion": "1", "labels": labels}, "spec": {}})
    cache.put(POD, body())
    return cache


async def test_a_renewed_file_reaches_the_pods(tmp_path: Path) -> None:
    """Looked at, told, planned for each pod, and counted until it is done."""
    file = tmp_path / "ca.crt"
    file.write_text(OLD)
    applied: list[Action] = []

    async def apply(actions: Any) -> None:
        applied.extend(actions)

    trust = Trust(file, "leaderlease-system", known(), apply, lambda: None)
    assert trust.look()
    assert (trust.behind(), trust.look()) == (0, False)
    (tmp_path / "new").write_text(OLD + NEW)
    (tmp_path / "new").rename(file)
    assert trust.look()
    assert trust.behind() == 1
    await trust.look_at("shop", "billing-0")
    await trust.look_at("shop", "gone")
    assert [(one.name, one.value) for one in applied if isinstance(one, Annotate)] == [
        ("leaderlease.dev/ca", OLD + NEW)
    ]


async def test_pods_of_another_operator_are_left_to_it(tmp_path: Path) -> None:
    """Two installations in one cluster have two authorities."""
    file = tmp_path / "ca.crt"
    file.write_text(NEW)

    async def apply(actions: Any) -> None:
        raise AssertionError(actions)

    trust = Trust(file, "leaderlease-system", known("elsewhere"), apply, lambda: None)
    trust.look()
    assert trust.behind() == 0
    await trust.look_at("shop", "billing-0")


@pytest.mark.parametrize("content", ["", "no certificate", OLD.replace("MII", "!!!"), "x" * 70_000])
def test_a_file_that_cannot_be_used_changes_nothing(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pods would lose the nodes; it is said once."""
    file = tmp_path / "ca.crt"
    file.write_text(OLD)
    trust = Trust(file, "x", known(), lambda actions: None, lambda: None)  # type: ignore[arg-type, return-value]
    trust.look()
    file.write_text(content)
    assert (trust.look(), trust.look()) == (False, False)
    assert trust.pem == OLD
    assert len([record for record in caplog.records if "pods keep" in record.message]) == 1
