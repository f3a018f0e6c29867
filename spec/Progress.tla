------------------------------- MODULE Progress -------------------------------
(* A candidate gets the lease once its holder has stopped.  Anything may happen *)
(* until a moment of calm; from then on no node restarts, nobody renews, and    *)
(* one candidate goes on with the highest ballot, its messages faster than the  *)
(* clock ticks.                                                                 *)
EXTENDS MC
VARIABLE calm
progressVars == <<vars, calm>>

Last == MaxB
Candidate == Owner(Last)

PromiseLast == \E a \in Acc : Promise(a, Last)
AcceptLast == \E a \in Acc : Accept(a) /\ acks'[Last] # acks[Last]      \* all other messages are lost now
Hurry == PromiseLast \/ AcceptLast \/ Propose(Last) \/ Grant(Last)

Before ==
    \/ Tick
    \/ \E a \in Acc : Accept(a) \/ Renew(a) \/ OnRelease(a) \/ Restart(a) \/ \E b \in Ballots \ {Last} : Promise(a, b)
    \/ \E b \in Ballots \ {Last} : Propose(b) \/ Grant(b)
    \/ \E c \in Clients \ {Candidate} : SendRenew(c) \/ GrantRenew(c) \/ LetGo(c)

After == Hurry \/ (Tick /\ ~ENABLED Hurry)

ProgressSpec ==
    /\ Init /\ calm = FALSE
    /\ [][\/ ~calm /\ Before /\ UNCHANGED calm
          \/ ~calm /\ calm' = TRUE /\ UNCHANGED vars
          \/ calm /\ After /\ UNCHANGED calm]_progressVars
    /\ WF_progressVars(calm /\ After /\ UNCHANGED calm)

\* The candidate was granted the lease, or has completed one without an end for whom that names, or a majority
\* holds such a one already: then that is the holder, and no time ends it.
IsChosen(m) == IsQuorum(acks[m.b], m.e)
\* A majority that names one nonce, if under two ballots, counts as its hold: only its own request, or a revoke, goes on.
IsHeldForever == \E c \in NeverClients : Majority({a \in Acc : av[a].h = c}, New)

IsDecided ==
    \/ IsHeldForever
    \/ \E m \in p2 : IsChosen(m) /\ (IsNeverHeld(m.v) \/ (m.b = Last /\ \E g \in granted : g.h = Candidate))
Progress == calm ~> IsDecided
===============================================================================
