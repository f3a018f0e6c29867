"""What an application is told (``sidecar/view.py``, ``file.py``): computed from clocks when it asks, never too much."""

import json
from pathlib import Path
from typing import cast

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Instant
from leaderlease.client.lease import Lease
from leaderlease.client.sdk import Client
from leaderlease.paxos.lease import Holder, validity_ms
from leaderlease.sidecar.file import LeaderFile
from leaderlease.sidecar.identity import boot_id
from leaderlease.sidecar.view import REASON_CHARS_MAX, View

NAME, ME = "shop/billing", "pod-a"
STALE_MS = 10_000.0
VALIDITY_MS = int(validity_ms(3_000))


class Told:
    """A view under a clock that a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_000.0
        self.step_ms = 0.0
        self.view = View(NAME, ME, STALE_MS, self.clock)

    def clock(self) -> Instant:
        """Read, and let some time pass with each reading if the test wants that."""
        self.now_ms += self.step_ms
        return Instant(self.now_ms, self.now_ms)

    def hold(self, term: int = 7, duration_ms: int | None = 3_000) -> None:
        """Hold the lease from now on, as the SDK would have it."""
        campaign = Campaign(NAME, Holder(ME, "", "a" * 32), duration_ms, True, 500)
        campaign.believe(1, self.clock())
        campaign.term, campaign.phase = term, Phase.HELD
        self.view.lease = Lease(campaign, cast(Client, None), self.clock)
        self.view.observe(ME, term)


def test_h32_a_leader_whose_time_has_run_out_does_not_lead_though_nobody_said_so() -> None:
    """R6: the process was stopped, and no event has arrived yet: neither token nor time is left."""
    told = Told()
    told.hold()
    document = told.view.document()
    assert (document.is_leader, document.token, document.remaining_ms) == (True, 7, VALIDITY_MS)
    told.now_ms += VALIDITY_MS + 1
    document = told.view.document()
    assert not told.view.is_leader()
    assert (document.is_leader, document.token, document.remaining_ms) == (False, None, 0)


def test_h23_who_steps_down_does_not_lead_any_more_though_it_still_holds() -> None:
    """R6: the lease is kept so that nobody else leads while the work ends."""
    told = Told()
    told.hold()
    told.view.is_stepping_down = True
    document = told.view.document()
    assert (document.is_leader, document.token, document.remaining_ms) == (False, None, 0)
    assert document.term == 7


def test_a_token_is_for_its_holder_only() -> None:
    """R7: who else leads, and under which term, is a hint; it is nothing to write with."""
    told = Told()
    told.view.confirm("pod-b", 9, told.clock())
    document = told.view.document()
    assert (document.leader, document.term, document.token, document.is_leader) == ("pod-b", 9, None, False)


def test_the_token_of_a_leader_is_that_of_its_lease() -> None:
    """R7: whatever was heard of a later term meanwhile: this process works under its own."""
    told = Told()
    told.hold(7)
    told.view.observe("pod-b", 8)
    document = told.view.document()
    assert (document.leader, document.term, document.token) == (ME, 7, 7)


def test_h21_what_nobody_has_confirmed_for_long_is_no_answer() -> None:
    """It counts from the question to the majority, not from the answer; then nobody is named any more."""
    told = Told()
    asked = told.clock()
    told.now_ms += 4_000
    told.view.confirm("pod-b", 9, asked)
    told.now_ms += STALE_MS - 4_000
    document = told.view.document()
    assert (document.leader, document.is_stale, document.age_ms) == ("pod-b", False, int(STALE_MS))
    told.now_ms += 1
    document = told.view.document()
    assert (document.leader, document.is_stale, told.view.is_stale()) == ("", True, True)


def test_h21_a_doubt_ends_what_was_confirmed() -> None:
    """This process lost the lease; what a majority said before that says nothing about now."""
    told = Told()
    told.view.confirm("pod-b", 9, told.clock())
    told.view.doubt()
    document = told.view.document()
    assert (document.is_stale, document.age_ms, document.as_of) == (True, None, "")


def test_the_age_of_what_a_leader_says_is_that_of_its_last_renewal() -> None:
    """A majority confirmed it then, and not when somebody asks."""
    told = Told()
    told.hold()
    told.now_ms += 700
    assert told.view.document().age_ms == 700


def test_a_reason_is_bounded() -> None:
    """It may come from a check's output."""
    told = Told()
    told.view.reason = "x" * 10_000
    assert len(told.view.document().reason) == REASON_CHARS_MAX


def _file(told: Told, path: Path) -> dict[str, object]:
    LeaderFile(path, [told.view], told.clock).write()
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_h31_the_file_names_a_deadline_that_is_never_too_late(tmp_path: Path) -> None:
    """R6: the clock is read before the validity is computed, so time that passes in between shortens it."""
    told = Told()
    told.hold()
    ends_ms = told.now_ms + VALIDITY_MS
    told.step_ms = 5.0
    content = _file(told, tmp_path / "leader.json")
    assert content["boot_id"] == boot_id()
    assert isinstance(content["valid_until_boottime_ms"], int)
    assert content["valid_until_boottime_ms"] < ends_ms


def test_the_file_of_who_does_not_lead_names_no_deadline_and_goes_with_the_sidecar(tmp_path: Path) -> None:
    """H23: not while it steps down either; and a file that nobody keeps up to date is removed."""
    told = Told()
    told.hold()
    told.view.is_stepping_down = True
    content = _file(told, tmp_path / "leader.json")
    assert (content["is_leader"], content["valid_until_boottime_ms"]) == (False, None)
    LeaderFile(tmp_path / "leader.json", [told.view], told.clock).remove()
    assert not (tmp_path / "leader.json").exists()
