"""The LeaderQuorum of the installation: applied when it must be, and never otherwise."""

from pathlib import Path

import pytest

from leaderlease.controller.actions import Apply
from leaderlease.controller.own_quorum import LABEL_OPERATOR, is_of_another, plan_own_quorum, read_own_quorum
from leaderlease.controller.resource import Json
from leaderlease.errors import ConfigError

WANTED: Json = {
    "apiVersion": "leaderlease.dev/v1alpha1",
    "kind": "LeaderQuorum",
    "metadata": {"name": "default", "ownerReferences": [{"kind": "ClusterRole", "name": "leaderlease-operator"}]},
    "spec": {"replicas": 3, "endpoints": ["a:7400", "b:7400", "c:7400"]},
}


def test_a_missing_quorum_is_applied_with_its_owner() -> None:
    """The owner's uid, which only the API server knows, is filled in."""
    [action] = plan_own_quorum(WANTED, None, "u-1")
    assert isinstance(action, Apply)
    assert action.body["spec"] == WANTED["spec"]
    assert action.body["metadata"]["ownerReferences"] == [
        {"kind": "ClusterRole", "name": "leaderlease-operator", "uid": "u-1"}
    ]


def test_a_quorum_that_says_the_same_is_left_alone() -> None:
    """Status and defaults of the server are no difference, so nothing is written while nothing changes."""
    found = {**WANTED, "spec": {**WANTED["spec"], "clusterUID": "x"}, "status": {"healthy": 3}}
    assert plan_own_quorum(WANTED, found, "") == []


def test_a_quorum_that_says_something_else_is_applied() -> None:
    """The installation is the source of its LeaderQuorum."""
    found = {**WANTED, "spec": {**WANTED["spec"], "replicas": 5}}
    assert len(plan_own_quorum(WANTED, found, "u-1")) == 1


def test_a_quorum_of_another_installation_is_left_alone() -> None:
    """Two operators would fight over one status; without the label a LeaderQuorum is everybody's."""
    labelled = {"metadata": {"name": "second", "labels": {LABEL_OPERATOR: "second"}}}
    assert is_of_another(labelled, "leaderlease-system")
    assert not is_of_another(labelled, "second")
    assert not is_of_another(WANTED, "leaderlease-system")
    assert not is_of_another(None, "leaderlease-system")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Service", "holds no LeaderQuorum"),
        ("[", "no valid YAML"),
        ("[" * 5_000, "no valid YAML"),
        ("2020-99-99", "no valid YAML"),
        ("apiVersion: leaderlease.dev/v1alpha1\nkind: LeaderQuorum\nmetadata: {}\nspec: {}", "with a name and a spec"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_quorum_is_refused(text: str | None, told: str, tmp_path: Path) -> None:
    """One sentence names the flag, the file and what is allowed."""
    path = tmp_path / "quorum.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_own_quorum(path)
    assert f"--own-quorum {path}" in str(caught.value)
