"""A node's disk that was changed by nobody honest: a start refuses by name, or finds exactly what had been durable.

What is damaged is the real thing: the files of a member's directory, closed in order or as a crash leaves them, with
the log not yet in the database. One thing no start can see (``storage/wal.py`` says why): damage to exactly the last
transaction of a log looks like a torn write, and a log that was cut like one that never grew. So each damage may cost
the transactions that it touched at the end of the log, and a cut the ones behind it; what is then found is exactly what
had been durable at some earlier instant, which peers recognise by the life of the member (H24). Never another ballot,
value, promise, ceiling or member.
"""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from fuzz.source import Source
from leaderlease.errors import StorageError
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.storage import directory as storage_directory
from leaderlease.storage.base import Identity, Life, Loaded
from leaderlease.storage.directory import DATABASE, wal_of
from leaderlease.storage.inspect import inspect
from support.disks import MEMBERS, Owner, configuration, record

LOG_BYTES = 1 << 16
"""Less than a directory here needs: in 8 MiB of zeros damage would hardly ever hit what is written."""
STATES_MAX = 100
"""More transactions than any directory here has."""
BLANK = Loaded((), 0, None)
FILES = (DATABASE, wal_of(Path(DATABASE)).name)


class Known(NamedTuple):
    """What a directory held, and in what order it became durable."""

    files: dict[str, bytes]
    identity: Identity
    states: tuple[Loaded, ...]
    """After each transaction, oldest first; the last is what had been durable in the end."""


def _state(records: dict[str, Record], ceiling: int) -> Loaded:
    return Loaded(tuple(sorted(records.values(), key=lambda one: one.key)), ceiling, configuration())


def _fill(directory: Path, *, crashed: bool) -> Known:
    """Write a directory; take its files after an orderly end, or in the middle."""
    owner = Owner()
    storage = owner.open(directory)
    done: list[int] = []
    storage.configure(configuration(), lambda: done.append(1))
    storage.remember_peer(MEMBERS[1], Life(3, "nonce"), lambda: done.append(2))
    owner.until(lambda: len(done) == 2)
    records: dict[str, Record] = {}
    states = [_state(records, 0)]
    for number in range(1, 25):
        if number == 12:
            storage.append(Ceiling(65_536), lambda: done.append(3))
            owner.until(lambda: len(done) == 3)
        else:
            one = record(f"l/{number % 7}", number)
            owner.store(storage, one)
            records[one.key] = one
        states.append(_state(records, 65_536 if number >= 12 else 0))
    if not crashed:
        storage.close()
    files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).exists()}
    identity = storage.identity
    if crashed:
        storage.close()
    return Known(files, identity, tuple(states))


_known: list[Known] = []
_scratch = tempfile.TemporaryDirectory(prefix="fuzz-disk-")


def _all_known() -> list[Known]:
    if not _known:
        # Only in a process that does nothing else.
        storage_directory.LOG_BYTES = LOG_BYTES
        for number, crashed in enumerate((True, False)):
            _known.append(_fill(Path(_scratch.name) / f"filled-{number}", crashed=crashed))
    return _known


def _damage(source: Source, data: bytes) -> tuple[bytes, int]:
    """Flip bits, overwrite, cut off, zero a page, put one page in the place of another, or add to the end.

    Returns: The damaged bytes, and how many transactions at the end that may cost.
    """
    damaged = bytearray(data)
    cost = 0
    for _ in range(source.whole(1, 3)):
        cost += 1
        if not damaged:
            break
        at = source.whole(0, len(damaged) - 1)
        page = at // 4096 * 4096
        match source.whole(0, 7):
            case 0 | 1 | 2:
                damaged[at] ^= 1 << source.whole(0, 7)
            case 3:
                patch = source.take(source.whole(1, 16))
                damaged[at : at + len(patch)] = patch
                cost += 1
            case 4:
                del damaged[at:]
                cost += STATES_MAX
            case 5:
                damaged[page : page + 4096] = bytes(len(damaged[page : page + 4096]))
                cost += 1
            case 6:
                cost += 1
                other = source.whole(0, len(damaged) - 1) // 4096 * 4096
                damaged[page : page + 4096] = damaged[other : other + 4096]
            case _:
                damaged += source.take(source.whole(1, 64))
    return bytes(damaged), cost


def _found(loaded: Loaded) -> Loaded:
    return Loaded(tuple(sorted(loaded.records, key=lambda one: one.key)), loaded.ceiling, loaded.configuration)


def one_input(data: bytes) -> None:
    """Damage one or both files, look, start, and start again."""
    source = Source(data)
    known = source.choice(_all_known())
    directory = Path(_scratch.name) / "tried"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    lost = 0
    for name, content in known.files.items():
        if source.chance(20):
            lost += STATES_MAX
            continue
        kept, cost = (content, 0) if source.chance(3) else _damage(source, content)
        (directory / name).write_bytes(kept)
        lost += cost if name != DATABASE else 0
    allowed = known.states[-1 - lost :] if lost < STATES_MAX else (BLANK, *known.states)
    seen = _inspected(directory)
    started = _started(directory, known, allowed)
    assert seen is None or started is None or seen == started, "inspection and start disagree"
    if started is not None:
        again = _started(directory, known, (started,))
        assert again == started, "a second start found something else than the first"


def _refused(directory: Path, error: StorageError) -> None:
    assert str(error).startswith(str(directory)), f"a refusal that does not name the directory: {error}"


def _inspected(directory: Path) -> Loaded | None:
    try:
        found = inspect(directory)
    except StorageError as error:
        return _refused(directory, error)
    if found.problems:
        return None
    return _found(Loaded(found.registers, found.ceiling, found.configuration))


def _started(directory: Path, known: Known, allowed: tuple[Loaded, ...]) -> Loaded | None:
    is_there = (directory / DATABASE).exists()
    try:
        storage = Owner().open(directory)
    except StorageError as error:
        return _refused(directory, error)
    try:
        found = _found(storage.load())
        if not is_there:
            assert storage.identity.member != known.identity.member, "an emptied disk came back as the member it was"
            return None
        assert storage.identity.member == known.identity.member
        assert storage.identity.life.incarnation > 1 or found == BLANK
        assert found in allowed, f"neither refused nor what had been durable: {found}"
        return found
    finally:
        storage.close()


SAMPLES = (
    *(bytes([kind, 0, 1, 0, 0, 2, 0, at, how, 3]) * 3 for kind in (0, 1) for at in (1, 40, 90) for how in range(8)),
    *(bytes([kind, 2, 0, 1, 0, at, 7, how, 3, 1, 1]) * 3 for kind in (0, 1) for at in (1, 40, 90) for how in range(8)),
)
