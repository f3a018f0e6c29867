"""What TLC is asked: which constants, which rule left out, and what must be violated then.

Time is counted in units of one Tick; with ``Skew = 1`` and ``Margin = 2`` acceptors wait, and holders believe, for
``duration - 1`` of them.
"""

from typing import NamedTuple

from support.tlc import Configuration

RULES = {
    "time, renewals, restarts": Configuration("B12", 2, steps="tick restart renew", holders="1 2"),
    "all that one holder may meet": Configuration("B12", 2, steps="tick restart repeat renew release"),
    "a longer lease, renewed": Configuration("B12", 2, 3, steps="tick renew"),
    "five members": Configuration("B12", 2, steps="tick restart", old="a1 a2 a3 a4 a5"),
    "evidence, four ballots": Configuration("B1212", 4),
    "phase 1 in advance": Configuration("B102", 3),
    "release": Configuration("B123", 3, steps="release", clients="1 2 3"),
    "hand-over": Configuration("B112", 3, steps="handover renew"),
    "never, vacated": Configuration("B112", 3, steps="restart vacate", never="1 2"),
    "a set that shrinks": Configuration("B12", 2, new="a1"),
    "a member replaced": Configuration("B12", 2, steps="tick", old="a1", new="a2"),
}
"""Every one is exhaustive: all states that these constants allow, however long it goes on."""

SMALL = Configuration("B12", 2)
TIMED = Configuration("B12", 2, steps="tick")
RENEWED = Configuration("B12", 2, 3, steps="tick renew")
FOUR = Configuration("B1212", 4)
SHRINKS = Configuration("B12", 2, new="a1")
REPLACED = Configuration("B12", 2, old="a1", new="a2")

MUTANTS = {
    "noguard": ("R1", "the guard in Prepare", TIMED, "Belief"),
    "seenpromise": ("R1", "evidence is what was accepted, not what was promised", FOUR, "Belief"),
    "seenlower": ("R1", "evidence lies above the accepted ballot", FOUR, "Belief"),
    "seensame": ("R1", "evidence is of another nonce", FOUR, "Belief"),
    "renewnopromise": ("R2", "a renewal needs an unbroken promise", RENEWED, "Belief"),
    "renewvolatile": ("R2", "a renewal needs the durable value", Configuration("B12", 2, steps="tick restart renew"),
                      "Belief"),
    "twovalues": ("R3", "one value for a ballot", TIMED, "Agreement"),
    "noraise": ("R4", "Accept raises the promise", Configuration("B121", 3), "Belief"),
    "amnesia": ("R4, R8, R9", "what is acknowledged is on the disk", Configuration("B12", 2, steps="restart"),
                "Belief"),
    "notfresh": ("R5", "timers are armed after a restart", Configuration("B12", 2, steps="restart"), "Belief"),
    "volpromise": ("R5", "promises are durable", Configuration("B12", 2, steps="tick restart"),
                   "Belief"),
    "fromreply": ("R6", "validity counts from the own send", Configuration("B12", 2, 3, steps="tick"), "Belief"),
    "byarrival": ("R6", "quorums are counted by member", SMALL, "Belief"),
    "mixatt": ("R6", "acknowledgements are counted for each attempt", RENEWED, "Belief"),
    "resurrect": ("R6", "what ended stays ended", Configuration("B11", 2, 3, steps="tick", clients="1"), "Continuity"),
    "nomargin": ("section 4", "the holder's margin", TIMED, "Belief"),
    "name": ("R7", "holders are compared by nonce", SMALL, "Belief"),
    "anyvalue": ("R7", "the highest ballot decides", TIMED, "Agreement"),
    "sameterm": ("R7", "a new holder has a new term", TIMED, "Agreement"),
    "tombstone": ("R7", "a tombstone keeps the term", Configuration("B112", 3, steps="vacate"), "Agreement"),
    "letgolast": ("section 5", "a holder stops believing before it says so",
                  Configuration("B12", 2, steps="release"), "Belief"),
    "releaseany": ("section 3", "a release is for exactly one value",
                   Configuration("B123", 3, steps="release", clients="1 2 3"), "Belief"),
    "epochblind": ("R8", "messages count in their own epoch", REPLACED, "Belief"),
    "nojoint": ("R8", "the joint epoch", REPLACED, "Belief"),
    "jointone": ("R8", "while joint, majorities of both sets", SHRINKS, "Belief"),
    "nocopy": ("R8", "a new member copies before it votes", REPLACED, "Belief"),
    "copyearly": ("R8", "it copies from members that have left the old epoch", REPLACED, "Belief"),
    "notimercopy": ("R8", "it arms full timers", Configuration("B12", 2, steps="tick", old="a1", new="a2"), "Belief"),
    "stayers": ("R8", "a member of both sets copies, too", SHRINKS, "Belief"),
    "noseen": ("R1", "evidence lifts a guard that guards nothing",
               Configuration("B123", 3, never="1 2", clients="1 2 3", is_liveness=True), "temporal"),
}  # fmt: skip
"""Switch in Lease.tla -> rule, what it leaves out, where TLC looks, and what is violated then."""

SPARE = {
    "seenabove": ("R1", "evidence lies below the asking ballot", FOUR),
    "nopromcopy": ("R8", "the promises of the old set are copied", SHRINKS),
    "replacenever": ("section 4", "a half-finished lease without an end is completed for whom it names",
                     Configuration("B112", 3, steps="restart vacate", never="1 2")),
}  # fmt: skip
"""Switch -> rule, what it leaves out, where TLC looks: nothing breaks; ``docs/model.md`` says why it is there."""

LIVENESS = {
    "a timed lease runs out": Configuration("B112", 3, steps="tick restart", is_liveness=True),
    "half-finished leases without an end": Configuration(
        "B123", 3, never="1 2", clients="1 2 3", is_liveness=True
    ),
}  # fmt: skip


LARGE = {
    "hand-over, both renew": Configuration("B112", 3, steps="handover renew", holders="1 2"),
    "all of time": Configuration("B12", 2, steps="tick restart repeat renew release", holders="1 2"),
    "three ballots in time": Configuration("B112", 3, steps="tick restart"),
}
"""For a quiet machine: minutes to hours."""


class Check(NamedTuple):
    """One run of TLC: a configuration, and the rule that is left out, if any."""

    configuration: Configuration
    mutant: str = ""


CHECKS = {
    **{name: Check(configuration) for name, configuration in {**RULES, **LIVENESS}.items()},
    **{name: Check(configuration, name) for name, (_, _, configuration, _) in MUTANTS.items()},
    **{name: Check(configuration, name) for name, (_, _, configuration) in SPARE.items()},
}
