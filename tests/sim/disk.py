"""What a simulated machine keeps: the rows of production's database, and a disk that may go wrong under them.

Rule 1: every row is encoded and summed up by production (``storage/rows.py``), and every life begins with production's
        reading of all of them: what comes back is what was decoded, never an object that was kept in memory.
Rule 2: a transaction is whole or not there; SQLite promises that, and its log is read by ``storage/wal.py``, which has
        tests of its own. A disk that breaks the promise is one of the damages.
Rule 3: whatever is damaged, opening finds it and the node stays out (R9, H25); what goes back as a whole is for peers
        to find (H24).
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from leaderlease.errors import CorruptRecord
from leaderlease.paxos.acceptor import Ceiling, Record
from leaderlease.paxos.membership import Configuration
from leaderlease.storage.base import Life
from leaderlease.storage.memory import BATCH_MAX, Body, MemoryDisk, MemoryStorage
from leaderlease.storage.rows import (
    CEILING,
    CONFIGURATION,
    MEMBER,
    PEER,
    RECORD,
    SUM,
    Contents,
    Row,
    Self,
    read_contents,
)
from sim.engine import Engine, Process

KINDS = {Record: RECORD, Ceiling: CEILING, Configuration: CONFIGURATION, Life: PEER}
DAMAGES = ("a flipped bit", "a lost row", "a row of before", "two rows exchanged", "half a transaction")


class Rows(MemoryDisk):
    """A disk as rows.

    Attributes:
        rows: By kind and key, as in the database.
        damage: What was done to them; empty if nothing was.
    """

    def __init__(self, member: str) -> None:
        super().__init__(member)
        self.rows: dict[tuple[str, str], Row] = {}
        self.before: dict[tuple[str, str], Row] = {}
        self.damage = ""
        self._ledger = Contents().ledger

    def copy(self) -> "Rows":
        """Return this disk as it is now, unlocked."""
        twin = super().copy()
        assert isinstance(twin, Rows)
        twin.rows, twin.before = dict(self.rows), dict(self.before)
        twin.damage = self.damage
        return twin

    def format(self, configuration: Configuration) -> None:
        """Make it the disk of a member that has not lived yet."""
        self._enter([(MEMBER, "", Self(self.member, 0, ""))])
        self.write([("", configuration)])

    def begin(self, boot_nonce: str) -> None:
        """Begin the next life, durably."""
        super().begin(boot_nonce)
        self._enter([(MEMBER, "", Self(self.member, self.life.incarnation, self.life.boot_nonce, self.life.earlier))])

    def write(self, batch: Sequence[tuple[str, Body]]) -> None:
        """Take one transaction, whole, as the rows that production would write."""
        super().write(batch)
        self._enter([(KINDS[type(body)], key, body) for key, body in batch])

    def _enter(self, batch: list[tuple[str, str, Any]]) -> None:
        for row in [*(self._ledger.row(*one) for one in batch), self._ledger.sum_row()]:
            place = row[:2]
            if place in self.rows:
                self.before[place] = self.rows[place]
            self.rows[place] = row

    def open(self) -> None:
        """Read everything with production's eyes, and hold what it saw (rule 1).

        Raises:
            CorruptRecord: It is not what was written.
        """
        contents = read_contents(_Table(self.rows))  # type: ignore[arg-type]
        if contents.problems:
            raise CorruptRecord(f"disk of {self.member}: {contents.problems[0]}")
        loaded, identity = contents.loaded(), contents.identity
        self.life = identity.life
        self.records = {record.key: record for record in loaded.records}
        self.ceiling, self.configuration, self.peers = loaded.ceiling, loaded.configuration, dict(contents.peers)
        self._ledger = contents.ledger

    # --- what disks do wrong -----------------------------------------------------------------------------------------

    def hurt(self, kind: str, batch: Sequence[tuple[str, Body]], chance: random.Random) -> bool:
        """Damage the rows in one of the ways of ``DAMAGES``; tell whether it could be done.

        Args:
            batch: What was being written; half of it is there afterwards, for ``half a transaction``.
        """
        whole = dict(self.rows)
        rows = self.rows
        places = list(rows)
        match kind:
            case "a flipped bit":
                place = chance.choice(places)
                data = bytearray(rows[place][2])
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                rows[place] = (*place, bytes(data), rows[place][3])
            case "a lost row":
                del rows[chance.choice(places)]
            case "a row of before":
                older = [place for place in self.before if place[0] != SUM and self.before[place] != rows.get(place)]
                if older:
                    place = chance.choice(older)
                    rows[place] = self.before[place]
            case "two rows exchanged":
                records = [place for place in places if place[0] == RECORD]
                if len(records) > 1:
                    one, other = chance.sample(records, 2)
                    rows[one], rows[other] = (*one, *rows[other][2:]), (*other, *rows[one][2:])
            case "half a transaction":
                for key, body in batch[: 1 + chance.randrange(len(batch))] if batch else ():
                    row = self._ledger.row(KINDS[type(body)], key, body)
                    rows[row[:2]] = row
        self.damage = kind if rows != whole else ""
        return bool(self.damage)


class _Table:
    """What ``read_contents`` asks of SQLite, which itself finds nothing wrong: its pages are whole."""

    def __init__(self, rows: dict[tuple[str, str], Row]) -> None:
        self._rows = [rows[place] for place in sorted(rows)]

    def execute(self, statement: str) -> Any:
        """Answer one of its two questions."""
        return _Answer([("ok",)]) if statement.startswith("PRAGMA") else self._rows


class _Answer(list[Any]):
    def fetchall(self) -> list[Any]:
        return self


class Platter:
    """The hardware under one member: how long it takes, and what it is told to do wrong.

    Attributes:
        stalled_until: No commit ends before.
        is_full: Every write fails, also the first of a life.
        fails_next_start: The fsync of the next incarnation fails; what it wrote is there.
    """

    def __init__(self, fsync_ms: float) -> None:
        self.fsync_ms = fsync_ms
        self.stalled_until = 0.0
        self.is_full = False
        self.fails_next_start = False

    def takes_ms(self, engine: Engine) -> float:
        """Draw the duration of one commit."""
        usual = self.fsync_ms * (0.3 + 2.0 * engine.random.random() ** 4)
        return max(usual, self.stalled_until - engine.now)


class Disk(MemoryStorage):
    """One life on a disk: commits take time, and the process hears of each one a moment after it is durable."""

    def __init__(
        self,
        engine: Engine,
        process: Process,
        disk: Rows,
        platter: Platter,
        **kwargs: Any,
    ) -> None:
        self._engine, self._process, self._platter = engine, process, platter
        self._writing = 0
        self.on_write: Callable[[], None] | None = None
        """Called once, in the middle of the next write."""
        super().__init__(disk, self._plan, **kwargs)

    def _plan(self, flush: Callable[[], None]) -> None:
        # What is queued until the end of this turn is one transaction, as the writer's thread takes it.
        self._process.soon(self._begin)

    def _begin(self) -> None:
        self._writing = min(len(self._queue), BATCH_MAX)
        takes_ms = self._platter.takes_ms(self._engine)
        if self.on_write is not None:
            self._engine.later(takes_ms / 2, self.on_write, self._process)
            self.on_write = None
        # The kernel finishes a write whether the process runs or not; a crash decides about it by itself.
        self._engine.later(takes_ms, self._written)

    def _written(self) -> None:
        self._is_scheduled = False
        if self._is_over:
            return
        writing, self._writing = self._writing, 0
        if self._platter.is_full:
            self.fail()
        self.commit(writing)
        self._engine.later(self._engine.random.random() * 0.2, self.deliver, self._process)
        if self._queue and not self._is_over:
            self._ask()

    def heal(self) -> None:
        """Take back what it was told to do wrong."""
        self.on_write = None
        self._will_fail = self._will_stick = False

    @property
    def has_stuck(self) -> bool:
        """Tell whether the write that failed is on the disk all the same."""
        return self._will_fail and self._will_stick

    @property
    def under_way(self) -> list[tuple[str, Body]]:
        """What is being written."""
        return [(key, body) for key, body, _, _ in list(self._queue)[: self._writing]]

    @property
    def is_untold(self) -> bool:
        """Tell whether something is durable that the process has not heard of."""
        return bool(self._committed)

    @property
    def queued(self) -> int:
        """Records that are not durable."""
        return len(self._queue)
