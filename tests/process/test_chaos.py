"""Everything at once, under all checkers: what ``process.chaos`` draws from a seed, run for a minute or for long.

``make chaos MINUTES=10 SEED=7`` runs it for longer, or again, and keeps a picture of it.
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import leaderlease
from process.chaos import (
    LOCK,
    Chaos,
    built,
    check_all,
    observed,
    picture,
    plan,
    start_candidates,
    wait_for_progress,
)
from process.faults import KINDS, Field
from support.checkers.history import Event, Kind, show
from support.plot import Span
from support.processes import until

CI_SEED, DAILY_S = 868, 40
"""Of the run that is part of all tests: its schedule has three nodes and every kind of fault."""
SECONDS = float(os.environ.get("CHAOS_SECONDS") or 60 * float(os.environ.get("CHAOS_MINUTES") or 0) or DAILY_S)
SEED = int(os.environ.get("CHAOS_SEED", CI_SEED)) or secrets.randbelow(1 << 32)
EXCERPT_S = 20.0
BUILD = Path(__file__).parents[2] / "build"


@contextmanager
def recorded(field: Field, history: list[Event], spans: list[Span]) -> Iterator[None]:
    """Keep a picture, the history and all logs if the run fails; the picture when ``make chaos`` asks for it."""
    folder = BUILD / f"chaos-{SEED}"
    failed = True
    try:
        yield
        failed = False
    finally:
        history = history or field.quorum.history()
        if failed or os.environ.get("CHAOS_PICTURE"):
            folder.mkdir(parents=True, exist_ok=True)
            which = f"make chaos SEED={SEED}{', FAILED' if failed else ''}"
            title = f"Who believed that it leads, while everything broke ({which})"
            whole = picture(title, field, history, spans)
            (folder / "beliefs.svg").write_text(whole.draw())
            (folder / "excerpt.svg").write_text(whole.excerpt(EXCERPT_S).draw())
            print(f"pictures: {folder}/beliefs.svg, and {EXCERPT_S:g} seconds of it in excerpt.svg")
        if failed:
            (folder / "history.txt").write_text(show(history, last=len(history)))
            for path in (*field.quorum.folder.glob("*.log"), *field.quorum.folder.glob("*.jsonl")):
                shutil.copy(path, folder)
            print(f"history and logs: {folder}")


def verified(field: Field, term: int) -> str:
    """Ask whether the lock is held under a token; nothing while nodes lose each other, as on a very busy machine."""
    try:
        return "held" if field.quorum.verify(LOCK, term) else "lost"
    except leaderlease.LeaderLeaseError:
        return ""


def run(field: Field, chaos: Chaos, history: list[Event]) -> tuple[float, float]:
    """Let it all happen; return what ``wait_for_progress`` does. ``history`` is filled in."""
    with observed(field) as observers:
        start_candidates(field, chaos.schedule)
        chaos.run()
        progress = wait_for_progress(field)
    field.quorum.wait_ready()
    for lives in field.holders.values():
        assert lives[-1].is_running, f"{lives[-1].log} says why a holder ended by itself:\n{lives[-1].log_tail()}"
    kept = [event for event in field.quorum.history() if event.lease == LOCK]
    assert {event.kind for event in kept} <= {Kind.ASKED, Kind.BELIEVE, Kind.RENEWED}
    assert until(lambda: verified(field, kept[-1].term), "a majority says whether the lock is held") == "held"
    for process in (*field.quorum.holders, *field.nodes):
        process.kill()
    history += field.quorum.history() + [event for observer in observers for event in observer.events]
    return progress


@pytest.mark.timeout(SECONDS + 240)
def test_chaos(tmp_path: Path) -> None:
    """However nodes, holders, disks, links and clocks fail: no two believe, no term repeats, nothing is lost."""
    schedule = plan(SEED, SECONDS)
    print(f"seed {SEED}, {SECONDS:g} s, {schedule.nodes} nodes, {len(schedule.faults)} faults; logs: {tmp_path}")
    history: list[Event] = []
    with built(tmp_path, schedule) as field:
        chaos = Chaos(field, schedule)
        with recorded(field, history, chaos.spans):
            progress = run(field, chaos, history)
            counts = Counter(event.kind.value for event in history)
            print(f"faults: {dict(chaos.counts)}\neffects: {dict(chaos.effects)}\nevents: {dict(counts)}")
            check_all(history, *progress, [node.terms() for node in field.nodes])
            assert all(counts[kind] for kind in ("believe", "renewed", "unbelieve", "write", "chosen", "denied"))
            idle = [kind.name for kind in schedule.kinds if not chaos.effects[kind.name]]
            assert not idle, f"these faults were begun and did nothing: {idle}"


def test_a_seed_decides_the_whole_schedule() -> None:
    """The same faults at the same times on the same targets; another seed draws others."""
    assert plan(7, 300).faults == plan(7, 300).faults
    assert plan(7, 300).faults != plan(8, 300).faults


@pytest.mark.parametrize("seed", range(1, 20))
def test_no_two_faults_touch_the_same(seed: int) -> None:
    """What one fault breaks, no other one mends."""
    faults = plan(seed, 120).faults
    for i, fault in enumerate(faults):
        for other in faults[i + 1 :]:
            assert other.begin_s > fault.end_s or not other.touches & fault.touches


def test_the_run_of_every_day_has_every_kind_of_fault() -> None:
    """Its seed is chosen for that; a new kind may need another."""
    schedule = plan(CI_SEED, DAILY_S)
    assert schedule.nodes == 3
    assert schedule.kinds == list(KINDS)
