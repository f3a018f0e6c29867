-------------------------------- MODULE Trace ---------------------------------
(* Traces of the code, step by step: every step must be one that the model      *)
(* allows, and must leave what the code left.  Traces is written by             *)
(* tests/model/traces.py into TraceData.tla; one run of TLC checks them all.    *)
(* One unit of time is one millisecond of true time.                            *)
(*                                                                              *)
(* The code waits at least as long as the model's acceptors, whose clocks are   *)
(* the fastest that are allowed, and believes at most as long as the model's    *)
(* holders, whose clocks are the slowest: both are compared at every step.      *)
EXTENDS Lease, TraceData, Sequences
VARIABLES which, at
traceVars == <<vars, which, at>>

T == Traces[which]
Step == T.events[at]

\* What is a constant of the model differs from trace to trace; the .cfg puts these in its place.
TraceOwner(b) == T.owner[b]
TraceIsNever(c) == c \in T.never
TraceGuardOf(v) == IF v.h = 0 THEN 0 ELSE IF TraceIsNever(v.h) THEN Forever ELSE T.waits[v.h]
TraceBeliefOf(v, age) == IF TraceIsNever(v.h) THEN Forever ELSE T.believes[v.h] - age
TraceIsQuorum(S, e) == e = 1 /\ Majority(S, T.members)

Is(kind) == at <= Len(T.events) /\ Step.kind = kind
Done == PrintT(<<"step", which, at>>) /\ at' = at + 1 /\ UNCHANGED which
Leaves == prom'[Step.a] = Step.prom /\ ab'[Step.a] = Step.ab /\ av'[Step.a] = Step.v
Guards == rem'[Step.a] <= Step.left
Asked(m) == m.b = Step.b /\ m.age = IF Step.age >= HolderBelieves THEN HolderBelieves ELSE Step.age

TraceInit == which \in DOMAIN Traces /\ at = 1 /\ Init

\* Each line: the step as the code took it, the action of the model that allows it, and what both must agree on.
TraceNext ==
    \/ Is("time") /\ Pass(Step.ms) /\ Done
    \/ Is("promise") /\ Promise(Step.a, Step.prom) /\ Leaves /\ Done
    \/ Is("propose") /\ Propose(Step.b) /\ (\E m \in p2' \ p2 : m.b = Step.b /\ m.v = Step.v) /\ Done
    \/ Is("accept") /\ Accept(Step.a) /\ Leaves /\ Guards /\ Done
    \/ /\ Is("repeat")
       /\ \/ Repeat(Step.a)
          \/ UNCHANGED vars /\ prom[Step.a] = ab[Step.a] /\ rem[Step.a] = GuardOf(av[Step.a])
       /\ Guards /\ Done
    \/ /\ Is("restart")                                     \* R5: the promise may only have risen, to the ceiling
       /\ Step.prom >= prom[Step.a]
       /\ prom' = [prom EXCEPT ![Step.a] = Step.prom]
       /\ rem' = [rem EXCEPT ![Step.a] = GuardOf(av[Step.a])]
       /\ UNCHANGED <<ab, av, ep, messageVars, clientVars>>
       /\ Leaves /\ Guards /\ Done
    \/ /\ Is("release")
       /\ \/ OnRelease(Step.a)
          \/ UNCHANGED vars /\ ab[Step.a] \in rel /\ rem[Step.a] = 0
       /\ Done
    \/ /\ Is("let go")
       /\ \/ LetGo(Step.c)
          \/ UNCHANGED vars /\ hold[Step.c].st = "ended"
       /\ Done
    \/ /\ Is("send renew")
       /\ \/ SendRenew(Step.c) /\ \E m \in ren' \ ren : m.b = Step.b
          \/ UNCHANGED vars /\ \E m \in ren : m.b = Step.b /\ m.age = 0
       /\ Done
    \/ /\ Is("renewed")
       /\ prom[Step.a] = Step.b /\ ab[Step.a] = Step.b      \* R2: an unbroken promise, the durable value
       /\ \E m \in ren :
            /\ Asked(m)
            /\ \/ /\ Renew(Step.a)
                  /\ ren' = IF m.age < HolderBelieves
                            THEN (ren \ {m}) \cup {[m EXCEPT !.acks = @ \cup {Step.a}]} ELSE ren
               \/ /\ UNCHANGED vars
                  /\ Step.a \in m.acks \/ m.age >= HolderBelieves
                  /\ rem[Step.a] = GuardOf(av[Step.a])
       /\ Guards /\ Done
    \/ /\ Is("believe")
       /\ \/ GrantRenew(Step.c)
          \/ \E m \in p2 : m.to = Step.c /\ Grant(m.b)
          \/ UNCHANGED vars /\ Believes(Step.c)
       /\ hold'[Step.c].st = "holds" /\ hold'[Step.c].left >= Step.left
       /\ [h |-> Step.c, t |-> Step.t] \in granted'
       /\ Done

TraceSpec == TraceInit /\ [][TraceNext]_traceVars
===============================================================================
