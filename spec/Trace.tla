-------------------------------- MODULE Trace ---------------------------------
(* A trace of the code, step by step: every step must be one that the model     *)
(* allows, and must leave what the code left.  Steps is written by              *)
(* tests/model/exporter.py into TraceData.tla.  One Tick is one millisecond.    *)
EXTENDS Lease, TraceData, Sequences
VARIABLES at, left
traceVars == <<vars, at, left>>

Step == Events[at]
Is(kind) == at <= Len(Events) /\ Step.kind = kind
Done == at' = at + 1 /\ left' = IF at < Len(Events) /\ Events[at + 1].kind = "tick" THEN Events[at + 1].ms ELSE 0
Same4(a) == prom'[a] = Step.prom /\ ab'[a] = Step.ab /\ av'[a] = Step.v

TraceInit == Init /\ at = 1 /\ left = IF Len(Events) > 0 /\ Events[1].kind = "tick" THEN Events[1].ms ELSE 0

TraceNext ==
    \/ Is("tick") /\ left > 0 /\ Tick /\ UNCHANGED at /\ left' = left - 1
    \/ Is("tick") /\ left = 0 /\ UNCHANGED vars /\ Done
    \/ Is("promise") /\ Promise(Step.a, Step.prom) /\ Same4(Step.a) /\ Done
    \/ Is("propose") /\ Propose(Step.b) /\ (\E m \in p2' : m.b = Step.b /\ m.v = Step.v) /\ Done
    \/ Is("accept") /\ Accept(Step.a) /\ Same4(Step.a) /\ Done
    \/ Is("repeat") /\ Repeat(Step.a) /\ Done
    \/ Is("restart") /\ Done                                    \* R5: the promise may only have risen
         /\ prom' = [prom EXCEPT ![Step.a] = Step.prom] /\ Step.prom >= prom[Step.a]
         /\ rem' = [rem EXCEPT ![Step.a] = GuardOf(av[Step.a])]
         /\ UNCHANGED <<ab, av, ep, messageVars, clientVars>> /\ Same4(Step.a)
    \/ Is("release") /\ OnRelease(Step.a) /\ Done
    \/ Is("let go") /\ Done
         /\ (LetGo(Step.c) \/ (hold[Step.c].st = "ended" /\ UNCHANGED vars))
    \/ Is("send renew") /\ Done
         /\ (SendRenew(Step.c) \/ UNCHANGED vars)
    \/ Is("renewed") /\ Done
         /\ \/ (Renew(Step.a) /\ UNCHANGED <<prom, ab, av>>)
            \/ (UNCHANGED vars /\ \E m \in ren : m.b = Step.b /\ Step.a \in m.acks)
    \/ Is("believe") /\ Done
         /\ \/ GrantRenew(Step.c)
            \/ \E b \in Ballots : Grant(b)
            \/ (UNCHANGED vars /\ Believes(Step.c))
         /\ hold'[Step.c].st = "holds"

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

\* TLC reports this one as violated when the whole trace is a behaviour of the model.
IsNotOver == at <= Len(Events)
===============================================================================
