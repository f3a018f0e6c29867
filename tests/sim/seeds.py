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
    268: "a release of a lease without end, half finished when a member was lost for good, waited for an operator "
    "(rules/test_found.py::test_r1_a_half_finished_release_of_a_lock_without_end_does_not_wait_for_an_operator)",
    828115313613: "a candidate that had held elsewhere and let go was elected by a request that came late "
    "(rules/test_found.py::test_h18_a_request_that_comes_after_its_holder_has_let_go_elects_nobody)",
    828115314137: "the same, where it had waited before "
    "(rules/test_found.py::test_h18_who_has_held_and_let_go_is_not_elected_where_it_asked_before)",
    107695917937: "the hello of a life that had ended was taken for proof of a rolled-back disk "
    "(rules/test_found.py::test_h24_the_hello_of_an_ended_life_that_comes_late_is_no_proof_of_a_rolled_back_disk)",
    107695917467: "nothing wrong; the referee foretold the end of a belief by the clock of a suspended machine",
    393953241349: "a half-finished release of a lease without end, known to one of three, was found by chance "
    "(rules/test_found.py::test_r1_the_member_that_knows_of_the_end_of_a_lock_is_waited_for)",
    309982587658: "a look at a half-finished release of a lease without end was put off by each revocation "
    "(rules/test_found.py::test_r1_whoever_asks_often_puts_off_no_look_at_a_lock)",
    243963935224: "nothing wrong; a member let a ballot pass, promised one of its own right behind it, and the referee "
    "saw the second only",
    10815233378: "nothing wrong; the simulated network rounded instants, and a stream lost its order "
    "(sim/test_network.py::test_a_stream_keeps_its_order_whatever_instants_are_drawn)",
    217627956996: "a watch at a node that had never heard of the lease was told of an end without its beginning "
    "(node/test_learner.py::test_the_first_that_is_heard_of_a_later_term_is_a_gap)",
    629469487966: "nothing wrong; what a node reads because it may not store it was counted as stored",
    828115313773: "nothing wrong; the search for an order gave up on 23 reads that had waited together "
    "(sim/test_linearizability.py::test_reads_that_wait_for_long_are_no_burden)",
}
