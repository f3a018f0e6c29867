"""The test levels that need more than Python, and what happens when a machine lacks it.

Levels 0 and 1 need nothing. A test of another level lives in the level's directory, calls ``require`` for
what it needs, and is skipped with one line at the end of the run. ``LEADERLEASE_REQUIRE=process,e2e`` turns
every skip of the named levels into a failure, so CI cannot pass by not testing.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

REQUIRE_VARIABLE = "LEADERLEASE_REQUIRE"

HOW_TO_ENABLE: Mapping[str, str] = {
    "process": "run as root, with iproute2, iptables, util-linux, strace, faketime and prometheus installed",
    "apiserver": "needs a real kube-apiserver and etcd: name their folder in KUBEBUILDER_ASSETS, or put both on PATH",
    "e2e": "needs a Kubernetes cluster that may be broken: set KUBECONFIG, and LEADERLEASE_CLUSTER for the faults",
    "certmanager": "needs a kube-apiserver and cert-manager's controllers: install Go and run tests/certmanager/build",
    "model": "needs the TLA+ model checker: install a Java runtime and run spec/fetch-tla2tools",
}
"""Every level that a machine may lack, with the sentence that says how to enable it."""


def required_levels(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the levels that must not be skipped.

    Raises:
        ValueError: the variable names a level that does not exist. A typing error must not weaken CI.
    """
    names = frozenset(name.strip() for name in environ.get(REQUIRE_VARIABLE, "").split(",") if name.strip())
    if unknown := names - HOW_TO_ENABLE.keys():
        raise ValueError(f"{REQUIRE_VARIABLE}: no such level: {', '.join(sorted(unknown))}")
    return names


def level_of(path: Path, tests_root: Path) -> str | None:
    """Return the level whose directory holds ``path``, or None for levels 0 and 1."""
    if not path.is_relative_to(tests_root):
        return None
    parts = path.relative_to(tests_root).parts
    return parts[0] if parts and parts[0] in HOW_TO_ENABLE else None


def require(level: str, condition: object, why: str) -> None:
    """Skip the calling test, fixture or module unless ``condition`` holds; fail if the level is required.

    Args:
        level: a key of ``HOW_TO_ENABLE``.
        condition: truthy if this machine has what the test needs.
        why: what is missing, for the skip line: "not root", "no iptables".
    """
    if level not in HOW_TO_ENABLE:
        raise ValueError(f"no such level: {level}")
    if condition:
        return
    reason = f"{level}: {why}"
    if level in required_levels():
        pytest.fail(f"{reason} ({REQUIRE_VARIABLE} names {level}; {HOW_TO_ENABLE[level]})", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
