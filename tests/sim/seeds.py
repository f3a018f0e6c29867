"""Seeds that once found something, with a line on what; CI runs them first.

What a seed does changes when the simulator draws differently, so each bug has a directed test as well.
"""

FOUND = {
    404: "a grant that came too late, of a campaign that was given up, was renewed for nobody "
    "(client/test_core.py::test_grant_that_came_too_late_is_released_when_its_campaign_is_given_up)",
    387: "a holder's second request at another node was stuck behind a candidate whose attempts ran out of time "
    "(rules/test_found.py::test_who_holds_for_ever_is_not_stuck_behind_a_candidate_whose_attempts_run_out_of_time)",
    51: "an acquire was never answered: the timer of a forgotten vacancy displaced its attempt "
    "(rules/test_found.py::test_an_acquire_right_after_a_durable_release_is_answered)",
    0: "a rolled-back disk was listened to after it had started once more "
    "(rules/test_found.py::test_h24_h33_a_disk_that_went_back_once_is_refused_for_good)",
    56: "the same, and terms that were acknowledged were gone with it",
}
