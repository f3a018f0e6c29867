"""The LeaderQuorum of this installation: applied by the operator, because nothing that is installed together with
the resource's definition can hold an object of it.

Rule 1: it is applied when it is missing or says something else, and never otherwise.
Rule 2: it is owned by the operator's ClusterRole, so that it goes when the installation is removed.
Rule 3: a LeaderQuorum that is labelled with another operator's namespace is that operator's, and so are its leases:
        two installations leave each other alone.
"""

from pathlib import Path
from typing import Final

import yaml

from leaderlease.controller.actions import Action, Apply, covers
from leaderlease.controller.api import Api
from leaderlease.controller.resource import API_VERSION, LEADER_QUORUM, Json, Kind
from leaderlease.errors import ConfigError, LeaderLeaseError

CLUSTER_ROLE: Final = Kind("ClusterRole", "rbac.authorization.k8s.io", "v1", "clusterroles", is_namespaced=False)
LABEL_OPERATOR: Final = "leaderlease.dev/operator"
"""On a LeaderQuorum: the namespace of the operator that is responsible."""
BYTES_MAX: Final = 64 << 10
"""Of the file."""


def read_own_quorum(path: Path) -> Json:
    """Read the file with a LeaderQuorum.

    Raises:
        ConfigError: It cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            found = yaml.safe_load(file.read(BYTES_MAX))
    except OSError as error:
        raise ConfigError(f"--own-quorum {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--own-quorum {path}: no valid YAML: {error}") from error
    is_quorum = (
        isinstance(found, dict)
        and (found.get("apiVersion"), found.get("kind")) == (API_VERSION, LEADER_QUORUM.name)
        and isinstance(found.get("metadata"), dict)
        and isinstance(found["metadata"].get("name"), str)
        and isinstance(found.get("spec"), dict)
    )
    if not is_quorum:
        raise ConfigError(f"--own-quorum {path}: holds no LeaderQuorum of {API_VERSION} with a name and a spec")
    body: Json = found
    return body


def is_of_another(quorum: Json | None, namespace: str) -> bool:
    """Tell whether another operator than the one of this namespace is responsible (rule 3)."""
    labels = (quorum or {}).get("metadata", {}).get("labels") or {}
    return bool(labels.get(LABEL_OPERATOR, namespace) != namespace)


def plan_own_quorum(wanted: Json, found: Json | None, owner_uid: str) -> list[Action]:
    """Return what should be done so that the LeaderQuorum is as wanted (rule 1). Pure.

    Args:
        wanted: From :func:`read_own_quorum`.
        found: What there is.
        owner_uid: Of the object that its only owner reference names; empty where it names none.
    """
    labels = wanted["metadata"].get("labels") or {}
    if (
        found is not None
        and covers(found.get("spec"), wanted["spec"])
        and covers(found["metadata"].get("labels") or {}, labels)
    ):
        return []
    body = {**wanted, "metadata": {**wanted["metadata"]}}
    owners = [{**owner, "uid": owner_uid} for owner in wanted["metadata"].get("ownerReferences") or () if owner_uid]
    body["metadata"]["ownerReferences"] = owners
    return [Apply(LEADER_QUORUM, body)]


async def find_owner_uid(api: Api, wanted: Json) -> str:
    """Return the uid of the ClusterRole that is to own the LeaderQuorum; empty where none is named.

    Raises:
        ApiError: The API server does not say.
        LeaderLeaseError: There is no such ClusterRole.
    """
    owners = wanted["metadata"].get("ownerReferences") or ()
    if not owners:
        return ""
    name = owners[0]["name"]
    found = await api.get(CLUSTER_ROLE, "", name)
    if found is None:
        raise LeaderLeaseError(f"ClusterRole {name!r}, which is to own the LeaderQuorum, does not exist")
    return str(found["metadata"]["uid"])
