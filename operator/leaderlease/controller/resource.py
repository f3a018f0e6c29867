"""Our resources as the API server hands them out, and the names that we use in Kubernetes."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from leaderlease.paxos.lease import (
    DURATION_MAX_MS,
    NO_FAILBACK_MAX_MS,
    RENEW_DEADLINE_MIN_MS,
    RETRY_PERIOD_MIN_MS,
    parse_duration,
    parse_span,
)
from leaderlease.wire.session import Spec

GROUP: Final = "leaderlease.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
MANAGER: Final = "leaderlease-operator"
"""Field manager of every write, and reporting controller of every Event."""
SOURCE: Final = "kubernetes"
"""Marks declarations that are this operator's to withdraw."""

LABEL_LEASE: Final = f"{GROUP}/lease"
"""On every object that belongs to a LeaderLease: its name."""
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_INJECT: Final = f"{GROUP}/inject"
"""On a pod: the lease that its sidecar campaigns for; several are separated by dots. ``false`` wants no sidecar."""
ANNOTATION_LEASES: Final = f"{GROUP}/lease"
"""On a pod: further leases of its sidecar, separated by commas, for a label has 63 characters."""
ANNOTATION_STATUS: Final = f"{GROUP}/status"
INJECTED: Final = "injected"
ANNOTATION_CA: Final = f"{GROUP}/ca"
"""On a pod: PEM of the authorities that its sidecar knows the nodes by; the downward API makes a file of it."""
ANNOTATION_HOST_NETWORK: Final = f"{GROUP}/host-network"
SIDECAR: Final = "leaderlease"
"""Name of the sidecar's container."""
LABEL_MANAGED: Final = "app.kubernetes.io/managed-by"
ANNOTATION_HINT: Final = f"{GROUP}/hint"
HINT: Final = (
    "A mirror of what the quorum decided; a hint with an age. Nothing reads it back, and writing it moves no leader."
)

Json = dict[str, Any]
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


class Kind(msgspec.Struct, frozen=True):
    """A kind of object at the API server.

    Attributes:
        prefix: Of its paths, without the namespace.
    """

    name: str
    group: str
    version: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``group/version``, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """Return the path of one object, of a namespace's collection, or of all."""
        path = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace and self.is_namespaced:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        return path + (f"/{name}" if name else "") + (f"/{sub}" if sub else "")


LEADER_LEASE: Final = Kind("LeaderLease", GROUP, VERSION, "leaderleases")
LEADER_QUORUM: Final = Kind("LeaderQuorum", GROUP, VERSION, "leaderquorums", is_namespaced=False)
POD: Final = Kind("Pod", "", "v1", "pods")
SERVICE: Final = Kind("Service", "", "v1", "services")
ENDPOINT_SLICE: Final = Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices")
LEASE: Final = Kind("Lease", "coordination.k8s.io", "v1", "leases")
EVENT: Final = Kind("Event", "events.k8s.io", "v1", "events")
CHILDREN: Final = (LEASE, SERVICE, ENDPOINT_SLICE)
"""Kinds that belong to a LeaderLease; watched by ``LABEL_LEASE``."""


class Pod(msgspec.Struct, frozen=True):
    """What we keep of a pod.

    Attributes:
        is_over: It runs no more and never will: succeeded or failed.
        injected: The leases that its sidecar campaigns for, as its label and annotation say.
        sidecar: From :func:`sidecar_state`.
        authorities: Digest of what it trusts; empty without TLS.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    ip: str
    node: str
    is_ready: bool
    is_terminating: bool
    is_over: bool
    version: str = ""
    injected: frozenset[str] = frozenset()
    sidecar: str = "off"
    authorities: str = ""

    @property
    def role(self) -> str:
        """Its role label; empty without one."""
        return self.labels.get(LABEL_ROLE, "")


def lease_names(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the leases that a pod names, unchecked: those of the label, then those of the annotation."""
    label = (metadata.get("labels") or {}).get(LABEL_INJECT, "")
    more = (metadata.get("annotations") or {}).get(ANNOTATION_LEASES, "")
    found = [*(label.split(".") if label != "false" else ()), *re.split(r"[,\s]+", more)]
    return tuple(dict.fromkeys(name for name in found if name))


def sidecar_state(pod: Mapping[str, Any]) -> str:
    """Return ``injected``, ``own`` (it brings a container of our name), ``off``, ``host network`` or ``wanted``."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    if annotations.get(ANNOTATION_STATUS) == INJECTED:
        return "injected"
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    if any(container.get("name") == SIDECAR for container in containers):
        return "own"
    if (metadata.get("labels") or {}).get(LABEL_INJECT, "false") == "false":
        return "off"
    if spec.get("hostNetwork") and annotations.get(ANNOTATION_HOST_NETWORK) != "true":
        return "host network"
    return "wanted"


def pod_of(body: Mapping[str, Any]) -> Pod:
    """Keep what we need of a pod."""
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = status.get("conditions") or ()
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        labels=dict(metadata.get("labels") or {}),
        ip=status.get("podIP") or "",
        node=(body.get("spec") or {}).get("nodeName") or "",
        is_ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        is_terminating="deletionTimestamp" in metadata,
        is_over=status.get("phase") in ("Succeeded", "Failed"),
        version=metadata.get("resourceVersion", ""),
        injected=frozenset(lease_names(metadata)),
        sidecar=sidecar_state(body),
        authorities=certificates_digest((metadata.get("annotations") or {}).get(ANNOTATION_CA, "")),
    )


def certificates_digest(pem: str) -> str:
    """Return what two texts have in common that hold the same certificates; empty for a text that holds none."""
    blocks = sorted({"".join(block.split()) for block in _CERTIFICATE.findall(pem)})
    return hashlib.sha256("\n".join(blocks).encode()).hexdigest()[:16] if blocks else ""


class Port(msgspec.Struct, frozen=True, rename="camel"):
    """A port of ``leaderService``."""

    name: str
    port: int
    target_port: int = 0
    protocol: str = "TCP"


class LeaderService(msgspec.Struct, frozen=True):
    """``spec.leaderService``."""

    name: str
    ports: tuple[Port, ...]


class Requirement(msgspec.Struct, frozen=True):
    """One of ``matchExpressions``."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """A label selector."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an object with these labels is selected; an empty selector selects all."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _meets(requirement, labels) for requirement in self.match_expressions
        )


def _meets(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case _:
            return value is None


class Candidates(msgspec.Struct, frozen=True, rename="camel"):
    """``spec.candidates``."""

    pod_selector: Selector | None = None
    service_account_names: tuple[str, ...] = ()


class Preference(msgspec.Struct, frozen=True, rename="camel"):
    """``spec.preference``."""

    policy: str = "None"
    no_failback: str = ""


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """``spec`` of a LeaderLease, with the defaults of the schema."""

    quorum: str = "default"
    lease_duration: str = "3s"
    renew_deadline: str = "2s"
    retry_period: str = "500ms"
    lock_delay: str = "0s"
    mode: str = "Active"
    candidates: Candidates = Candidates()
    preference: Preference = Preference()
    leader_service: LeaderService | None = None


class QuorumSpec(msgspec.Struct, frozen=True, rename="camel"):
    """``spec`` of a LeaderQuorum."""

    endpoints: tuple[str, ...] = ()
    replicas: int = 3
    cluster_uid: str = msgspec.field(default="", name="clusterUID")


def lease_spec(body: Mapping[str, Any]) -> LeaseSpec:
    """Read the spec of a LeaderLease that the API server took.

    Raises:
        msgspec.ValidationError: The schema of the API server is another than ours.
    """
    return msgspec.convert(body.get("spec") or {}, LeaseSpec)


def quorum_spec(body: Mapping[str, Any]) -> QuorumSpec:
    """Read the spec of a LeaderQuorum; raises as :func:`lease_spec`."""
    return msgspec.convert(body.get("spec") or {}, QuorumSpec)


def declaration(spec: LeaseSpec, pods: Sequence[Pod]) -> Spec:
    """Return what is declared to the quorum.

    Args:
        spec: What is wanted.
        pods: All pods of the namespace that we know; those that the selector matches are admitted.

    Raises:
        ConfigError: A duration that the API server should have refused.
    """
    selector = spec.candidates.pod_selector
    admitted = None
    if selector is not None:
        admitted = tuple(sorted(p.uid for p in pods if not p.is_over and selector.matches(p.labels)))
    delay_ms = 0 if spec.lock_delay in ("0s", "0ms", "") else parse_duration(spec.lock_delay, "lockDelay")
    preference = spec.preference
    return Spec(
        duration_ms=parse_duration(spec.lease_duration, "leaseDuration"),
        lock_delay_ms=delay_ms or 0,
        mode=spec.mode,
        service_accounts=tuple(sorted(spec.candidates.service_account_names)),
        pods=admitted,
        source=SOURCE,
        renew_deadline_ms=parse_span(spec.renew_deadline, "renewDeadline", RENEW_DEADLINE_MIN_MS, DURATION_MAX_MS),
        retry_period_ms=parse_span(spec.retry_period, "retryPeriod", RETRY_PERIOD_MIN_MS, DURATION_MAX_MS),
        preference=preference.policy,
        no_failback_ms=parse_span(preference.no_failback or 0, "noFailback", 1, NO_FAILBACK_MAX_MS),
    )
