"""Events about pods that were missed: without a sidecar, or with one for a lease that does not exist."""

import copy

import pytest

from leaderlease.controller.inject import inject
from leaderlease.controller.missed import plan_pod
from leaderlease.controller.resource import pod_of
from support.pods import INJECTION, Pod, make

NOW = "2030-01-01T00:00:10.000Z"


def events(pod: Pod, *existing: str, namespace: str = "shop", is_injecting: bool = True) -> list[tuple[str, str]]:
    """Return reason and note of the Events about a pod."""
    pod = copy.deepcopy(pod)
    pod["metadata"] |= {"namespace": namespace, "name": "billing-0", "uid": "12345678-abc", "resourceVersion": "1"}
    posts = plan_pod(
        pod_of(pod), existing, is_injecting=is_injecting, own_namespace="leaderlease-system", now=NOW
    )  # fmt: skip
    for post in posts:
        regarding = post.body["regarding"]
        assert (regarding["apiVersion"], regarding["kind"], regarding["namespace"]) == ("v1", "Pod", namespace)
        assert post.body["type"] == "Warning"
    return [(post.body["reason"], post.body["note"]) for post in posts]


def test_missed_pod_gets_an_event() -> None:
    """It says what to do; whoever does not inject has missed nothing."""
    [(reason, note)] = events(make(), "billing")
    assert reason == "InjectionMissed"
    assert "delete the pod" in note
    assert events(make(), "billing", is_injecting=False) == []


@pytest.mark.parametrize(
    ("pod", "namespace", "why"),
    [
        (make("billing", {"hostNetwork": True}), "shop", "leaderlease.dev/host-network: 'true'"),
        (make(), "kube-system", "pods of namespace kube-system are never injected"),
        (make(), "leaderlease-system", "pods of namespace leaderlease-system are never injected"),
    ],
)
def test_pod_that_is_never_injected_is_told_why(pod: Pod, namespace: str, why: str) -> None:
    """Deleting it would not help."""
    [(reason, note)] = events(pod, "billing", namespace=namespace)
    assert reason == "InjectionMissed"
    assert why in note


def test_unknown_lease_gets_an_event() -> None:
    """Of several leases, those that do not exist are named; all may be there."""
    pod = inject(make("billing.carts", lease="reports"), INJECTION)
    [(reason, note)] = events(pod, "billing")
    assert reason == "LeaseNotFound"
    assert "shop/carts, shop/reports" in note
    assert events(pod, "billing", "carts", "reports") == []


def test_pod_without_wishes_gets_no_event() -> None:
    """No label, or `false`."""
    assert events(make(None)) == events(make("false")) == []
