"""Every value set, the static manifests and the example, taken by a real API server."""

from typing import Any

import pytest
import yaml

from chart.conftest import NAMESPACE, ROOT, VALUES, Helm, kubectl, pick
from chart.test_render import pods
from support.apiserver import ApiError, ApiServer


@pytest.mark.parametrize("title", VALUES)
def test_a_real_api_server_takes_the_objects(helm: Helm, api: ApiServer, title: str) -> None:
    """A server-side dry run refuses unknown fields, bad names and wrong types; there are none, and no warnings."""
    told = kubectl(api, "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=helm.text(VALUES[title]))
    assert told.count("(server dry run)") == len(helm.objects(title)), told
    # The definitions were applied by another way, of which kubectl warns.
    warnings = [line for line in told.splitlines() if "Warning" in line and "last-applied-configuration" not in line]
    assert not warnings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"renewBefore": "2161h"}, "renewBefore must be less than duration"),
        ({"usages": ["server"]}, "Unsupported value"),
        ({"subject": {}}, "unknown field"),
        ({"issuerRef": {"kind": "Issuer"}}, "issuerRef.name"),
    ],
)
def test_a_certificate_that_cert_manager_would_not_take_is_refused(
    helm: Helm, api: ApiServer, changes: dict[str, Any], told: str
) -> None:
    """The check of the certificates above can fail."""
    certificate = pick(helm.objects("cert-manager"), "Certificate", "-node")
    body = {**certificate, "spec": {**certificate["spec"], **changes}}
    path = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates?dryRun=All&fieldValidation=Strict"
    with pytest.raises(ApiError, match=told):
        api.request("POST", path, body)


def test_static_manifests_are_taken(helm: Helm, api: ApiServer) -> None:
    """`kubectl apply -k manifests/` works without Helm."""
    told = kubectl(
        api, "apply", "--dry-run=server", "--server-side", "--force-conflicts", "-k", str(ROOT / "manifests")
    )
    assert "statefulset.apps/leaderlease-node" in told
    assert "cronjob.batch/leaderlease-certificates" in told


def test_the_example_is_taken(api: ApiServer) -> None:
    """`kubectl apply -f examples/billing.yaml` works."""
    told = kubectl(api, "apply", "--dry-run=server", "-f", str(ROOT / "examples" / "billing.yaml"))
    assert "leaderlease.leaderlease.dev/billing" in told


@pytest.mark.parametrize("title", [title for title in VALUES if title != "root disks"])
def test_pods_pass_the_restricted_level(helm: Helm, api: ApiServer, title: str) -> None:
    """Pod Security Admission itself admits each pod where `restricted` is enforced."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restricted", "labels": labels}}
    api.apply(body, "/api/v1/namespaces")
    for name, spec in pods(helm.objects(title)):
        # Without what only a scheduler or another admission would look at.
        spec = {key: value for key, value in spec.items() if key not in ("priorityClassName",)}
        _create(api, name, {**spec, "volumes": _with_data(spec)})


def test_the_restricted_level_refuses_an_owner_that_is_root(helm: Helm, api: ApiServer) -> None:
    """The check above can fail: fixOwner is documented not to pass."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restricted", "labels": labels}}
    api.apply(body, "/api/v1/namespaces")
    [spec] = [spec for name, spec in pods(helm.objects("root disks")) if "StatefulSet" in name]
    with pytest.raises(ApiError, match="violates PodSecurity"):
        _create(api, "nodes", {**spec, "volumes": _with_data(spec)})


def _with_data(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the volumes, and an empty one in the place of a claim that only the StatefulSet would add."""
    names = {volume["name"] for volume in spec["volumes"]}
    mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
    return [*spec["volumes"], *({"name": name, "emptyDir": {}} for name in sorted(mounted - names))]


def _create(api: ApiServer, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-"}, "spec": spec}
    try:
        api.request("POST", "/api/v1/namespaces/restricted/pods?dryRun=All", body)
    except ApiError as error:
        raise ApiError(error.status, f"{name}: {error.message}") from None


def test_the_namespace_is_the_one_of_the_manifests() -> None:
    """The static manifests bring the namespace that they are rendered for."""
    body = yaml.safe_load((ROOT / "manifests" / "namespace.yaml").read_text())
    assert body["metadata"]["name"] == NAMESPACE
