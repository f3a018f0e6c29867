"""Commands about leases, against real nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import yaml

from leaderlease import blocking
from support.commands import PATIENCE_S, Candidate, Cli, is_one_sentence

NAME = "shop/billing"
LOCK = "shop/migration"


@pytest.fixture(scope="module", autouse=True)
def holder(endpoints: str) -> Iterator[blocking.Client]:
    """Alice holds a lease and a lock, for all tests of this module."""
    with (
        blocking.connect(endpoints) as client,
        client.acquire(NAME, "alice", duration="3s"),
        client.acquire(LOCK, "alice", duration="never"),
    ):
        yield client


# --- get -----------------------------------------------------------------------------------------------------


def test_get_lists_leases_in_plain_columns_when_piped(ask: Cli) -> None:
    """No colour, no cut text: what awk can read."""
    ran = ask("get", "--prefix", "shop/")
    assert ran.code == 0
    heading, first, second = ran.out.splitlines()
    assert heading.split()[:5] == ["NAME", "STATE", "HOLDER", "TERM", "DURATION"]
    assert first.split()[:5] == [NAME, "held", "alice", "1", "3s"]
    assert second.split()[:7] == [LOCK, "held", "alice", "1", "never", "never", "ends"]
    assert "\x1b" not in ran.out


def test_get_draws_a_table_in_a_terminal(ask: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets the same cells, with colours."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ran = ask("get", NAME)
    assert ran.code == 0
    assert "\x1b[" in ran.out
    assert "alice" in ran.out


def test_get_gives_json_and_yaml_of_the_same_content(ask: Cli) -> None:
    """Both round-trip, with the field names that the HTTP port has."""
    as_json = json.loads(ask("get", LOCK, "-o", "json").out)
    as_yaml = yaml.safe_load(ask("get", LOCK, "-o", "yaml").out)
    assert as_json == as_yaml
    assert as_json["name"] == LOCK
    assert as_json["holder"]["name"] == "alice"
    assert len(as_json["holder"]["nonce"]) == 32
    assert as_json["duration_ms"] is None
    assert set(as_json) >= {"state", "term", "remaining_ms", "acquired_at_ms", "candidates"}


def test_get_list_in_json_has_items(ask: Cli) -> None:
    """A list is an object with `items`, as `/v1/leases` has it."""
    items = json.loads(ask("get", "-o", "json", "--prefix", "shop/").out)["items"]
    assert [item["name"] for item in items] == [NAME, LOCK]


def test_get_names_only(ask: Cli) -> None:
    """`-o name` prints one name a line, for loops."""
    assert ask("get", "--prefix", "shop/", "-o", "name").out.split() == [NAME, LOCK]


def test_get_of_nothing_is_said_on_standard_error(ask: Cli) -> None:
    """An empty list is no error, and puts nothing into a pipe."""
    ran = ask("get", "--prefix", "nowhere/")
    assert (ran.code, ran.out) == (0, "")
    assert "nowhere/" in ran.err


def test_get_of_an_unknown_lease_fails(ask: Cli) -> None:
    """A lease that was never held is one sentence and exit code 1."""
    ran = ask("get", "shop/none")
    assert ran.code == 1
    assert is_one_sentence(ran.err)
    assert "shop/none: nobody has ever held it" in ran.err


def _watching(endpoints: str, *arguments: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "leaderlease", "get", "-w", "--endpoints", endpoints, *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_watch_shows_transitions_until_interrupted(endpoints: str) -> None:
    """One JSON object a line, at once; Ctrl-C ends it with 130 and no traceback."""
    with _watching(endpoints, "--prefix", "watch/", "-o", "json") as watching, blocking.connect(endpoints) as client:
        assert watching.stdout is not None
        assert watching.stderr is not None
        kinds = []
        with client.acquire("watch/a", "alice", duration="2s"):
            kinds.append(json.loads(watching.stdout.readline())["kind"])
        while kinds[-1] != "released":
            change = json.loads(watching.stdout.readline())
            assert change["name"] == "watch/a"
            kinds.append(change["kind"])
        assert kinds[0] in ("acquired", "state")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 130
        assert "Traceback" not in watching.stderr.read()


def test_reader_that_leaves_ends_a_watch_without_noise(endpoints: str) -> None:
    """A closed pipe ends the command as it ends every other tool."""
    reading, writing = os.pipe()
    os.close(reading)
    with _watching(endpoints, NAME, stdout=writing) as watching:
        os.close(writing)
        assert watching.stderr is not None
        assert watching.wait(PATIENCE_S) == 128 + signal.SIGPIPE
        assert watching.stderr.read() == ""


# --- verify --------------------------------------------------------------------------------------------------


def test_verify_tells_by_its_exit_code(ask: Cli) -> None:
    """0 where the term is current; 76 and a sentence with the latest one where it is not."""
    assert ask("verify", NAME, "1").code == 0
    ran = ask("verify", NAME, "7")
    assert ran.code == 76
    assert is_one_sentence(ran.err)
    assert f"{NAME}: term 7 is not current: the latest is 1" in ran.err


def test_verify_of_an_ended_term_says_so(ask: Cli, holder: blocking.Client) -> None:
    """Nobody holds: the latest term is not current any more."""
    holder.acquire("shop2/ended", "alice", duration="2s").release()
    ran = ask("verify", "shop2/ended", "1")
    assert ran.code == 76
    assert "it has ended, and nobody holds the lease" in ran.err


def test_verify_in_json_answers_both_ways(ask: Cli) -> None:
    """Programs get the answer on standard output whatever the exit code."""
    assert json.loads(ask("verify", NAME, "1", "-o", "json").out)["is_current"] is True
    no = json.loads(ask("verify", NAME, "7", "-o", "json").out)
    assert no == {"name": NAME, "term": 7, "is_current": False, "current_term": 1}


# --- declare, withdraw ---------------------------------------------------------------------------------------


def test_declared_lease_admits_whom_it_names(ask: Cli, endpoints: str) -> None:
    """What was declared decides duration and holders; withdrawing counts on."""
    ran = ask("declare", "ops/a", "--duration", "750ms", "--identity", "alice", "--identity", "bob")
    assert ran.code == 0
    assert "ops/a declared: duration 750ms" in ran.out
    assert "for alice, bob (generation 1)" in ran.out
    with blocking.connect(endpoints) as client:
        with client.acquire("ops/a", "bob") as lease:
            assert lease.duration == 0.75
        with pytest.raises(blocking.LeaderLeaseError, match="admits alice, bob, and not carol"):
            client.try_acquire("ops/a", "carol")
    assert json.loads(ask("withdraw", "ops/a", "-o", "json").out) == {"name": "ops/a", "generation": 2}


def test_preference_and_deadline_are_declared(ask: Cli, endpoints: str) -> None:
    """They reach the quorum, and the next declaration takes them back."""
    options = ["--renew-deadline", "1s", "--retry-period", "200ms", "--preference", "ordinal", "--no-failback", "24h"]
    ran = ask("declare", "ops/c", *options)
    assert "renew deadline 1s, retry period 200ms, preference Ordinal, no failback 24h, Active" in ran.out
    with blocking.connect(endpoints) as client:
        declared = client.declared("ops/c")["ops/c"]
        assert (declared.renew_deadline_ms, declared.retry_period_ms) == (1_000, 200)
        assert (declared.preference, declared.no_failback_ms) == ("Ordinal", 86_400_000)
        with client.acquire("ops/c", "pod-0") as lease:
            assert lease.term == 1
    assert json.loads(ask("declare", "ops/c", "-o", "json").out)["preference"] == "None"


def test_mode_is_read_in_any_case(ask: Cli) -> None:
    """`paused` is what people type."""
    assert json.loads(ask("declare", "ops/b", "--mode", "paused", "-o", "json").out)["mode"] == "Paused"


# --- transfer ------------------------------------------------------------------------------------------------


def test_transfer_goes_to_the_candidate_that_is_named(ask: Cli, endpoints: str) -> None:
    """Bob waits behind Carol and is next all the same; the command waits until he holds."""
    with Candidate(endpoints, "ops/t", "alice") as alice:
        alice.wait()
        with Candidate(endpoints, "ops/t", "carol"), Candidate(endpoints, "ops/t", "bob"):
            give_up_at = time.monotonic() + PATIENCE_S
            while len(json.loads(ask("get", "ops/t", "-o", "json").out)["candidates"]) < 2:
                assert time.monotonic() < give_up_at
            ran = ask("transfer", "ops/t", "--to", "bob")
            assert ran.code == 0, ran.err
            assert ran.out == "ops/t: alice -> bob, term 1 -> 2\n"


def test_transfer_that_is_not_done_in_time_says_who_holds(ask: Cli) -> None:
    """A holder that goes on is named; the exit code is that of an open outcome."""
    ran = ask("transfer", NAME, "--wait", "100ms")
    assert ran.code == 75
    assert is_one_sentence(ran.err)
    assert "alice was asked and still holds term 1" in ran.err


def test_transfer_of_a_free_lease_fails(ask: Cli) -> None:
    """Nobody can be asked."""
    ran = ask("transfer", "ops/free")
    assert ran.code == 77
    assert "nobody holds it" in ran.err


def test_transfer_to_the_holder_is_refused(ask: Cli) -> None:
    """It would only interrupt the holder."""
    ran = ask("transfer", NAME, "--to", "alice")
    assert ran.code == 2
    assert "alice holds shop/billing already" in ran.err


# --- release -------------------------------------------------------------------------------------------------


def test_release_wants_to_know_who_is_meant(ask: Cli) -> None:
    """A bare release says both ways, and the one for a living holder."""
    ran = ask("release", NAME)
    assert ran.code == 2
    assert is_one_sentence(ran.err)
    assert all(text in ran.err for text in ("--nonce", "--revoke --term N", f"leaderlease transfer {NAME}"))


def test_release_by_nonce_frees_the_lease_of_that_holder(ask: Cli, holder: blocking.Client) -> None:
    """The nonce of a holder that has ended without releasing frees its lock, once."""
    nonce = holder.acquire("ops/gone", "alice", duration="never").nonce
    assert json.loads(ask("get", "ops/gone", "-o", "json").out)["holder"]["nonce"] == nonce
    assert ask("release", "ops/gone", "--nonce", nonce).code == 0
    assert json.loads(ask("get", "ops/gone", "-o", "json").out)["state"] == "vacant"
    again = ask("release", "ops/gone", "--nonce", nonce)
    assert again.code == 77
    assert "nobody holds it under this nonce" in again.err


def test_revoke_ends_the_very_term_that_is_named(ask: Cli, holder: blocking.Client) -> None:
    """Another term than the operator saw is left alone."""
    holder.acquire("ops/lock", "alice", duration="never")
    wrong = ask("release", "ops/lock", "--revoke", "--term", "4")
    assert wrong.code == 77
    assert "nobody holds it under term 4; its term is 1" in wrong.err
    assert ask("release", "ops/lock", "--revoke").code == 2
    assert ask("release", "ops/lock", "--revoke", "--term", "1").out == "ops/lock: term 1 revoked\n"
    assert json.loads(ask("get", "ops/lock", "-o", "json").out)["state"] == "vacant"


def test_revoke_leaves_leases_alone_that_expire(ask: Cli) -> None:
    """They end by themselves; the sentence names the command for a living holder."""
    ran = ask("release", NAME, "--revoke", "--term", "1")
    assert ran.code == 77
    assert f"leaderlease transfer {NAME}" in ran.err


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "billing"], "lease name 'billing': write namespace/name"),
        (["get", "shop/Billing"], "lease name 'shop/Billing': write namespace/name"),
        (["get", f"shop/{'a' * 64}"], "each of at most 63"),
        (["get", NAME, "--prefix", "shop/"], "NAME and --prefix exclude each other"),
        (["verify", "a/b/c", "1"], "lease name 'a/b/c': write namespace/name"),
        (["verify", NAME, "0"], "TERM"),
        (["verify", NAME], "Missing argument 'TERM' (see leaderlease verify --help)"),
        (["declare", NAME, "--duration", "50ms"], "duration: '50ms' is outside [100ms, 1h]"),
        (["declare", NAME, "--duration", "2h"], "duration: '2h' is outside [100ms, 1h]; use never"),
        (
            ["declare", NAME, "--duration", "soon"],
            "duration: 'soon' is no duration; write 750ms, 3s, 1m30s, 1h or never",
        ),
        (["declare", NAME, "--lock-delay", "2h"], "lock_delay: '2h' is outside"),
        (["declare", NAME, "--lock-delay", "never"], "lock_delay: cannot be never"),
        (["declare", NAME, "--mode", "Off"], "'Off' is not one of"),
        (["declare", NAME, "--renew-deadline", "3s"], "renew_deadline: 3000 ms must be at least 50 ms, and shorter"),
        (["declare", NAME, "--renew-deadline", "10ms"], "renew_deadline: '10ms' is outside [50ms, 1h]"),
        (["declare", NAME, "--retry-period", "2600ms"], "retry_period: 2600 ms must be at least 10 ms"),
        (["declare", NAME, "--no-failback", "1h"], "no_failback: 3600000 ms has no effect with preference None"),
        (["release", NAME, "--nonce", "12"], "nonce: '12' must be 32 lower-case hexadecimal digits"),
        (["transfer", NAME, "--wait", "often"], "--wait: 'often' is no duration"),
        (["get", "--timeout", "0"], "--timeout: '0s' is outside [100ms, 1h]"),
        (["get", "--timeout", "never"], "--timeout: 'never' is outside [100ms, 1h]"),
        (["get", "--endpoints", "somewhere:http"], "endpoint 'somewhere:http': write host:port"),
        (["get", "--endpoints", ","], "endpoints: the list is empty"),
        (["get", "--tls-cert", "a.pem"], "--tls-ca is missing"),
        (["get", "--tls-ca", "/nonexistent.pem"], "--tls-ca /nonexistent.pem cannot be read"),
        (["get", "--token-file", "/nonexistent"], "--token-file /nonexistent: cannot be read"),
        (["obtain"], "No such command 'obtain' (see leaderlease --help)"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(ask: Cli, arguments: list[str], text: str) -> None:
    """Field, value and what is allowed; exit code 2; nothing on standard output."""
    ran = ask(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert is_one_sentence(ran.err), ran.err
    assert text in ran.err
