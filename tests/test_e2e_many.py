"""What the crowd of the end-to-end tests wrote down becomes times without a leader."""

import json
from pathlib import Path

from support.e2e_many import LEASES, Crowd, Gap

LEASE = "shop/l0"


def write(folder: Path, name: str, *events: tuple[float, str, str, float]) -> None:
    """Write the events of one process: time, kind, nonce, end."""
    with (folder / f"{name}.jsonl").open("w") as file:
        for at, kind, nonce, until in events:
            fields = {"at_ms": at, "kind": kind, "lease": LEASE, "nonce": nonce, "term": 1, "until_ms": until}
            file.write(json.dumps(fields) + "\n")


def gaps(folder: Path, since_ms: float, until_ms: float) -> list[Gap]:
    """Return the times without a leader of the lease."""
    return Crowd("shop", folder).gaps(since_ms, until_ms)[LEASE]


def test_hand_over_is_not_lost(tmp_path: Path) -> None:
    """Who stops without an end wanted it."""
    write(tmp_path, "a", (0, "believe", "n1", 3_000), (500, "renewed", "n1", 3_500), (1_000, "unbelieve", "n1", 0))
    write(tmp_path, "b", (1_200, "believe", "n2", 4_200), (1_700, "renewed", "n2", 9_000))
    assert gaps(tmp_path, 0, 2_000) == [Gap(200, False)]


def test_holder_that_had_to_stop_lost_it(tmp_path: Path) -> None:
    """Renewals that come after its stop change nothing."""
    write(
        tmp_path,
        *("a", (0, "believe", "n1", 3_000), (2_000, "unbelieve", "n1", 2_000), (2_100, "renewed", "n1", 5_000)),
    )
    write(tmp_path, "b", (3_000, "believe", "n2", 9_000), (8_000, "renewed", "n2", 12_000))
    assert gaps(tmp_path, 0, 8_000) == [Gap(1_000, True)]


def test_dead_process_leads_nothing(tmp_path: Path) -> None:
    """It wrote nothing more, so its promise counts only until its last line."""
    write(tmp_path, "a", (0, "believe", "n1", 3_000), (1_000, "renewed", "n1", 4_000))
    write(tmp_path, "b", (4_100, "believe", "n2", 9_000), (8_000, "renewed", "n2", 12_000))
    assert gaps(tmp_path, 0, 8_000) == [Gap(3_100, True)]


def test_neglected_are_those_that_nobody_held_since(tmp_path: Path) -> None:
    """However short it was held."""
    write(tmp_path, "a", (0, "believe", "n1", 3_000))
    crowd = Crowd("shop", tmp_path)
    assert len(crowd.neglected(2_999)) == LEASES - 1
    assert len(crowd.neglected(3_000)) == LEASES
