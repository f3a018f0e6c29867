"""Real sidecars at a real quorum: election, restart, health, hand-over, the end, and the loss of all nodes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderlease.cli.local import LocalQuorum
from support.processes import boot_ms
from support.sidecars import Sidecar, Sidecars, until

D1 = ("--duration", "1s")
QUICK = ("--duration", "500ms", "--stale-after", "2")
GATE = ("--health-period", "0.1", "--health-timeout", "5", "--health-failures", "2", "--step-down-grace", "0.3")


def _file(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sidecar.file.read_text())
    return found


def _nonce(sidecar: Sidecar) -> str:
    (record,) = sidecar.state.glob("*.nonce")
    return str(json.loads(record.read_text())["nonce"])


def test_another_one_leads_after_a_kill(sidecars: Sidecars) -> None:
    """The leader's sidecar is killed: the standby, which named it until then, leads with the next term."""
    first = sidecars.start("pod-a", "kill", *D1)
    term = first.until_leader()["term"]
    second = sidecars.start("pod-b", "kill", *D1)
    seen = until(lambda: (d := second.document())["leader"] == "pod-a" and d, "the standby names the leader")
    assert (seen["is_leader"], seen["term"], seen["token"], seen["remaining_ms"]) == (False, term, None, 0)
    assert second.ask("GET", "/leader").status == 503
    first.kill()
    assert second.until_leader()["token"] == term + 1
    assert second.ask("GET", "/leader").status == 200


def test_restart_keeps_lease_and_term(sidecars: Sidecars) -> None:
    """A sidecar that is killed and started again at once goes on with its nonce and term, though others wait."""
    sidecar = sidecars.start("pod-a", "restart", "--duration", "10s")
    term = sidecar.until_leader()["term"]
    nonce = _nonce(sidecar)
    sidecars.start("pod-b", "restart", "--duration", "10s")
    sidecar.kill()
    assert _file(sidecar)["is_leader"]
    sidecar.start()
    assert sidecar.until_leader()["term"] == term
    assert _nonce(sidecar) == nonce


def test_restart_after_the_validity_is_another_term(sidecars: Sidecars) -> None:
    """A nonce whose validity ran out while nobody looked is dead, though nobody else took the lease (H18)."""
    sidecar = sidecars.start("pod-a", "late", *QUICK)
    term = sidecar.until_leader()["term"]
    nonce = _nonce(sidecar)
    sidecar.kill()
    until(lambda: boot_ms() > _file(sidecar)["valid_until_boottime_ms"], "what the file promised has passed")
    sidecar.start()
    assert sidecar.until_leader()["term"] == term + 1
    assert _nonce(sidecar) != nonce


def test_released_nonce_is_not_used_again(sidecars: Sidecars) -> None:
    """After a release nothing is left on disk with which a restart could claim the old term."""
    sidecar = sidecars.start("pod-a", "released", "--duration", "10s")
    term = sidecar.until_leader()["term"]
    assert sidecar.ask("POST", "/v1/leases/released/release").json == {
        "lease": "test/released",
        "released": True,
        "term": term,
    }
    assert not list(sidecar.state.glob("*.nonce"))
    sidecar.kill()
    sidecar.start()
    assert sidecar.until_leader()["term"] == term + 1


def test_state_directory_belongs_to_one_process(sidecars: Sidecars) -> None:
    """A second sidecar with the same directory would share the nonce: it ends with a sentence (H19)."""
    sidecar = sidecars.start("pod-a", "shared")
    other = sidecars.make("pod-b", "shared", "--state-dir", str(sidecar.state))
    with pytest.raises(AssertionError, match="another sidecar uses it; give each one its own"):
        other.start()
    assert other.process is not None
    assert other.process.returncode == 2


def test_sigterm_releases(sidecars: Sidecars) -> None:
    """An orderly end releases, so the standby leads in the next term; the file is gone, and the exit code is 0."""
    first = sidecars.start("pod-a", "term", "--duration", "30s")
    term = first.until_leader()["term"]
    second = sidecars.start("pod-b", "term", "--duration", "30s")
    second.until_state("waiting")
    assert first.terminate() == 0
    assert not first.file.exists()
    assert second.until_leader()["term"] == term + 1


@pytest.fixture
def app() -> Iterator[socket.socket]:
    """The application: a port that is open while it lives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_sigterm_waits_for_the_application(sidecars: Sidecars, app: socket.socket) -> None:
    """While the application's port is open the sidecar leads on; it releases when the port has closed."""
    options = ("--duration", "30s", "--drain", f"tcp://127.0.0.1:{app.getsockname()[1]}")
    first = sidecars.start("pod-a", "drain", *options)
    first.until_leader()
    second = sidecars.start("pod-b", "drain", "--duration", "30s")
    assert first.process is not None
    first.process.terminate()
    until(lambda: "no more campaigns" in first.log.read_text(), "the signal has arrived")
    # The application is looked at ten times a second.
    app.settimeout(10)
    app.accept()[0].close()
    assert first.is_leader()
    assert not second.is_leader()
    app.close()
    assert first.process.wait(10) == 0
    second.until_leader()


def test_application_that_does_not_end_keeps_its_lease(sidecars: Sidecars, app: socket.socket) -> None:
    """After the longest wait the sidecar leaves without a release: another leads only when the lease has expired."""
    options = ("--duration", "2s", "--drain", f"tcp://127.0.0.1:{app.getsockname()[1]}", "--drain-timeout", "0.2")
    first = sidecars.start("pod-a", "stuck", *options)
    first.until_leader()
    second = sidecars.start("pod-b", "stuck", "--duration", "2s")
    until(lambda: second.document()["leader"] == "pod-a", "the standby knows who leads")
    promised_until_ms = _file(first)["valid_until_boottime_ms"]
    assert first.terminate() == 0
    assert "left to expire" in first.log.read_text()
    second.until_leader()
    assert boot_ms() > promised_until_ms


def test_failing_application_yields(sidecars: Sidecars, tmp_path: Path) -> None:
    """A holder whose application fails its check lets another lead, and does not run again before it has recovered."""
    healthy = tmp_path / "healthy"
    first = sidecars.start("pod-a", "gate", *D1, "--health", f"exec:test -e {healthy}", *GATE)
    first.until_state("unhealthy")
    healthy.touch()
    term = first.until_leader()["term"]
    second = sidecars.start("pod-b", "gate", *D1)
    second.until_state("waiting")
    healthy.unlink()
    assert second.until_leader()["term"] == term + 1
    reason = first.until_state("unhealthy")["reason"]
    assert reason == "test ended with 1"
    second.kill()
    until(lambda: first.document()["leader"] == "", "the lease is free, and the failing candidate does not take it")
    healthy.touch()
    assert first.until_leader()["term"] == term + 2


def test_not_leader_before_others_are(sidecars: Sidecars) -> None:
    """Stepping down: not leader at once, and nobody else until the application has acknowledged (H23)."""
    first = sidecars.start("pod-a", "grace", "--duration", "30s", "--step-down-grace", "60")
    term = first.until_leader()["term"]
    second = sidecars.start("pod-b", "grace", "--duration", "30s")
    second.until_state("waiting")
    assert first.ask("POST", "/v1/leases/grace/step-down").status == 202
    after = first.document()
    assert (after["is_leader"], after["token"], after["state"]) == (False, None, "stepping_down")
    assert not _file(first)["is_leader"]
    assert second.ask("GET", f"/v1/leases/grace/verify?term={term}").status == 200
    assert not second.is_leader()
    assert first.ask("POST", "/v1/leases/grace/release").status == 200
    assert second.until_leader()["term"] == term + 1


def test_transfer_names_the_next_leader(sidecars: Sidecars) -> None:
    """A standby's API asks the holder to let go in favour of the one that is named, whoever waited first."""
    options = ("--duration", "30s", "--step-down-grace", "0.2")
    first = sidecars.start("pod-a", "transfer", *options)
    term = first.until_leader()["term"]
    sidecars.start("pod-b", "transfer", *options).until_state("waiting")
    third = sidecars.start("pod-c", "transfer", *options)
    until(lambda: third.document()["leader"] == "pod-a", "the third one is connected")
    assert third.ask("POST", "/v1/leases/transfer/transfer", '{"successor": "pod-c"}').status == 202
    assert third.until_leader()["term"] == term + 1
    assert "in favour of pod-c" in first.log.read_text()


def test_rollout_prefers_the_newest_replicaset(sidecars: Sidecars) -> None:
    """The pod that ends names a waiting pod of another template, though one of its own waited longer."""
    options = ("--duration", "30s", "--successor-preference", "newest-replicaset")
    first = sidecars.start("app-old11-aaaaa", "rollout", *options)
    first.until_leader()
    for pod in ("app-old11-bbbbb", "app-new22-ccccc"):
        latest = sidecars.start(pod, "rollout", *options)
        until(lambda: latest.document()["leader"] == "app-old11-aaaaa", "it is connected")  # noqa: B023
    first.terminate()
    latest.until_leader()


def test_several_leases_are_won_one_by_one(sidecars: Sidecars) -> None:
    """One sidecar holds several leases; each has its own term and answer, and the file has all of them."""
    sidecar = sidecars.start("pod-a", "one", "--lease", "two", *D1)
    for lease in ("one", "two"):
        until(lambda: sidecar.document(lease)["is_leader"], lease)  # noqa: B023
    listed = sidecar.ask("GET", "/v1/leases").json["leases"]
    assert [(one["lease"], one["is_leader"]) for one in listed] == [("test/one", True), ("test/two", True)]
    until(lambda: all(one["is_leader"] for one in _file(sidecar)["leases"].values()), "the file says so too")
    assert _file(sidecar)["lease"] == "test/one"


def test_nothing_is_claimed_without_a_quorum(tmp_path: Path) -> None:
    """All nodes stop: the leader stops saying so before its validity ends, then nobody is named; it recovers alone."""
    with (
        LocalQuorum(tmp_path / "quorum", 3) as quorum,
        contextlib.closing(Sidecars(tmp_path, quorum.endpoints)) as sidecars,
    ):
        leader = sidecars.start("pod-a", "lonely", *QUICK)
        term = leader.until_leader()["term"]
        standby = sidecars.start("pod-b", "lonely", *QUICK)
        until(lambda: standby.document()["leader"] == "pod-a", "the standby knows who leads")
        for node in quorum.nodes:
            quorum.kill(node)
        stopped_ms = boot_ms()
        asked_ms = stopped_ms
        while leader.ask("GET", "/leader").status == 200:
            assert asked_ms < stopped_ms + 500, "it says leader for longer than the lease lasts"
            asked_ms = boot_ms()
        for sidecar in (leader, standby):
            stale = until(lambda: (r := sidecar.ask("GET", "/")).status == 503 and r.json, "stale")  # noqa: B023
            assert (stale["is_stale"], stale["name"], stale["leader"]) == (True, "", "")
            assert sidecar.ask("GET", "/readyz").status == 200
        assert not _file(leader)["is_leader"]
        for node in quorum.nodes:
            quorum.start_node(node)
        quorum.wait_ready()
        until(lambda: leader.is_leader() or standby.is_leader(), "somebody leads again")
        assert max(leader.document()["term"], standby.document()["term"]) > term


def test_start_without_nodes_answers_and_ends(sidecars: Sidecars) -> None:
    """With no node to reach, the API is up, says that nothing is known, and the process still ends in order."""
    sidecar = sidecars.start("pod-a", "early", "--endpoints", "127.0.0.1:1", "--stale-after", "1")
    assert sidecar.ask("GET", "/readyz").status == 200
    assert sidecar.ask("GET", "/").status == 503
    assert sidecar.ask("GET", "/leader").status == 503
    until(lambda: "127.0.0.1:1" in sidecar.document()["reason"], "it says what it cannot reach")
    assert sidecar.terminate() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--lease: name at least one lease"),
        (("--lease", "Upper"), "lease name 'default/Upper'"),
        (("--lease", "a", "--lease", "a"), "each lease may be named once"),
        (("--lease", "x/a", "--lease", "y/a"), "the names after the / must differ"),
        (("--lease", "a", "--endpoints", "h:p"), "endpoint 'h:p'"),
        (("--lease", "a", "--listen", "nowhere"), "--listen: 'nowhere'"),
        (("--lease", "a", "--listen-pod", ":70000"), "--listen-pod: ':70000'"),
        (("--lease", "a", "--listen", "203.0.113.1:4040"), "--listen 203.0.113.1:4040: "),
        (("--lease", "a", "--duration", "5"), "--duration: '5' is no duration"),
        (("--lease", "a", "--health", "ftp://h/"), "--health: 'ftp://h/'"),
        (("--lease", "a", "--health", "tcp://h"), "--health: 'h' has no port"),
        (("--lease", "a", "--health", "exec:"), "--health: 'exec:' names no command"),
        (("--lease", "a", "--health", "tcp://h:1", "--health-failures", "0"), "--health-failures: 0"),
        (("--lease", "a", "--health", "tcp://h:1", "--health-period", "0"), "--health-period: 0 s"),
        (("--lease", "a", "--drain", "health"), "--drain: 'health' waits until the health check fails"),
        (("--lease", "a", "--drain", "soon"), "--drain: 'soon' must be none, health or tcp://host:port"),
        (("--lease", "a", "--stale-after", "0"), "--stale-after: 0 s"),
        (("--lease", "a", "--tls-cert", "x.pem"), "--tls-ca: is missing"),
        (("--lease", "a", "--tls-ca", "/nonexistent.pem"), "--tls-ca /nonexistent.pem cannot be read"),
        (("--lease", "a", "--state-dir", "/proc/none"), "--state-dir /proc/none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_setting_is_one_sentence(
    options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that cannot work ends the command with exit code 2 and a line that names it."""
    from leaderlease.cli import main

    for variable in ("POD_NAME", "POD_NAMESPACE", "LEADERLEASE_ENDPOINTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("leaderlease.cli.sidecar.log_to_stderr", lambda level: None)
    assert main(["sidecar", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_downward_api_names_the_candidate(sidecars: Sidecars, tmp_path: Path) -> None:
    """POD_NAME, POD_NAMESPACE and POD_UID are taken where no flag says otherwise."""
    environment = {**os.environ, "POD_NAME": "pod-x", "POD_NAMESPACE": "shop", "POD_UID": "uid-1"}
    environment |= {"LEADERLEASE_LEASE": "downward", "LEADERLEASE_ENDPOINTS": sidecars.endpoints}
    path = tmp_path / "leader.json"
    command = [sys.executable, "-m", "leaderlease", "sidecar", "--listen", "127.0.0.1:0", "--file", str(path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            found = until(lambda: path.exists() and (d := json.loads(path.read_text()))["is_leader"] and d, "it leads")
        finally:
            process.kill()
    assert (found["lease"], found["identity"], found["leader"]) == ("shop/downward", "pod-x", "pod-x")
