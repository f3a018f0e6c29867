"""What a restart may go on with: rules over records on a real directory, and a clock that the test moves."""

from pathlib import Path

import msgspec
import pytest

from leaderlease.client.clock import Instant
from leaderlease.errors import ConfigError
from leaderlease.sidecar import identity
from leaderlease.sidecar.identity import Record, StateDir

LEASE = "shop/billing"
NONCE = "0123456789abcdef" * 2


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now = Instant(50_000.0, 40_000.0)

    def __call__(self) -> Instant:
        return self.now

    def move(self, boot_ms: float, raw_ms: float) -> None:
        """Let time pass."""
        self.now = Instant(self.now.boot_ms + boot_ms, self.now.raw_ms + raw_ms)


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> StateDir:
    """A directory with the record of a lease that is valid for three seconds."""
    made = StateDir(tmp_path, clock)
    made.save(LEASE, "pod-a", NONCE, 7, 3_000.0)
    return made


def _content(directory: Path) -> Path:
    (found,) = directory.glob("*.nonce")
    return found


def test_record_goes_on_within_its_validity(state: StateDir, clock: Clock) -> None:
    """The same nonce and term are found, with what is left of the validity."""
    clock.move(1_000, 900)
    record = state.load(LEASE, "pod-a")
    assert record is not None
    assert (record.nonce, record.term, record.remaining_ms(clock())) == (NONCE, 7, 2_000.0)


@pytest.mark.parametrize(("boot_ms", "raw_ms"), [(3_000, 3_000), (3_000, 0), (0, 3_000)])
def test_record_is_dead_when_either_clock_says_so(state: StateDir, clock: Clock, boot_ms: int, raw_ms: int) -> None:
    """A nonce whose validity has passed by one clock, for example in a suspend, never goes on (H18, H31)."""
    clock.move(boot_ms, raw_ms)
    assert state.load(LEASE, "pod-a") is None
    clock.move(-3_000, -3_000)
    assert state.load(LEASE, "pod-a") is None, "what was dead once stays dead"


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": "another"},
        {"identity": "pod-b"},
        {"lease": "shop/other"},
        {"nonce": "xyz"},
        {"nonce": NONCE.upper()},
    ],
    ids=str,
)
def test_record_of_others_is_not_used(state: StateDir, tmp_path: Path, change: dict[str, str]) -> None:
    """H33: another boot has other clocks; another identity or lease is somebody else; a nonce has one form."""
    path = _content(tmp_path)
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, **change)))
    assert state.load(LEASE, "pod-a") is None
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"nonce": 7}', b'{"nonce": "\xd4"}', b'{"\xd4": 7}', b"\xff" * 10_000],
    ids=lambda content: repr(content[:20]),
)
def test_damaged_record_is_a_new_beginning(state: StateDir, tmp_path: Path, content: bytes) -> None:
    """What cannot be read is removed, and a new nonce is drawn."""
    _content(tmp_path).write_bytes(content)
    assert state.load(LEASE, "pod-a") is None
    assert not list(tmp_path.glob("*.nonce"))


def test_lease_without_end_outlives_the_boot(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time ends such a lease, so its nonce goes on whatever the clocks and the kernel say."""
    state = StateDir(tmp_path, clock)
    state.save(LEASE, "pod-a", NONCE, 7, float("inf"))
    state.close()
    other = tmp_path / "boot_id"
    other.write_text("another\n")
    monkeypatch.setattr(identity, "BOOT_ID", other)
    clock.move(-50_000, -40_000)
    record = StateDir(tmp_path, clock).load(LEASE, "pod-a")
    assert record is not None
    assert record.nonce == NONCE


def test_nonce_is_for_its_owner_only(state: StateDir, tmp_path: Path) -> None:
    """Whoever reads the nonce could release the lease: nobody else may."""
    assert _content(tmp_path).stat().st_mode & 0o077 == 0


def test_one_process_has_the_directory(state: StateDir, tmp_path: Path, clock: Clock) -> None:
    """A second one is refused; after the first has gone, it is served."""
    with pytest.raises(ConfigError, match="another sidecar uses it"):
        StateDir(tmp_path, clock)
    state.close()
    assert StateDir(tmp_path, clock).load(LEASE, "pod-a") is not None


def test_without_a_directory_nothing_is_kept(clock: Clock) -> None:
    """No directory: every call is allowed, and every start begins anew."""
    state = StateDir(None, clock)
    state.save(LEASE, "pod-a", NONCE, 7, 3_000.0)
    assert state.load(LEASE, "pod-a") is None
    state.erase(LEASE)
    state.close()


def test_record_that_cannot_be_written_is_removed(
    state: StateDir, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk costs the restart its lease, said in the log; no older record is left to be believed."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity, "write_atomically", full)
    state.save(LEASE, "pod-a", NONCE, 8, 3_000.0)
    assert "a restart of this sidecar will lose the lease" in caplog.text
    assert state.load(LEASE, "pod-a") is None


def test_h18_where_boots_cannot_be_told_apart_no_nonce_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R6, H33: two readings of a clock are comparable within one boot only."""
    monkeypatch.setattr(identity, "BOOT_ID", tmp_path / "there is none")
    clock = lambda: Instant(1_000.0, 1_000.0)  # noqa: E731
    state = StateDir(tmp_path, clock)
    state.save("shop/a", "me", "a" * 32, 1, 5_000)
    assert state.load("shop/a", "me") is None
    state.close()
