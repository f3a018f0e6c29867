-------------------------------- MODULE Lease --------------------------------
(***************************************************************************)
(* One lease of LeaderLease: acceptors, ballots, timers, holders, and a    *)
(* change of the members.  R1 to R9 are the rules of the protocol, H1 to   *)
(* H37 the holes that they close.  M("name") is a switch: with "name" in   *)
(* Mut that clause is left out, and TLC must find what breaks then.  The   *)
(* list of them, and of clauses without one, is in docs/model.md.          *)
(*                                                                         *)
(* Messages are never taken out of their sets, so each may be lost (nobody *)
(* acts on it), late, repeated and overtaken.  A step of an acceptor is    *)
(* atomic because replies leave only after their record is durable, in     *)
(* order (R4): what a crash can lose was never answered.                   *)
(*                                                                         *)
(* Time is relative.  A timer is what is left of it, a message carries its *)
(* age, Tick lets one unit of true time pass, and so time has no end.      *)
(* Clocks err by at most Skew units within one Duration.  The worst case   *)
(* is modelled, all others are slower copies of it: acceptors' clocks run  *)
(* fast and let go Skew early; holders' run slow and believe Skew longer   *)
(* than their margin says.  An acceptor whose clock is right answers LIVE  *)
(* for longer, which here is a Promise that is not sent.                   *)
(***************************************************************************)
EXTENDS Integers, FiniteSets, TLC

CONSTANTS
    Old, New,      \* member sets before and after the change; equal when none is planned
    Clients,       \* nonces, positive integers; 0 is nobody
    NeverClients,  \* those of them that ask for a lease that no time ends
    MaxB,          \* ballots are 1..MaxB
    Owner(_),      \* ballot -> the client that it is prepared for; 0: prepared before anybody asks
    Duration, Skew, Margin,
    Block,         \* ballots that one durable promise ceiling reserves
    Steps,         \* what may happen beside Paxos: subset of
                   \* {"tick", "restart", "repeat", "renew", "release", "vacate", "handover"}
    Holders,       \* clients that renew and let go; the others only want the lease: fewer states
    Mut            \* rules that are left out

ASSUME /\ Margin >= 2 * Skew          \* section 4
       /\ Duration + Skew > Margin
       /\ Clients \subseteq Nat \ {0}

VARIABLES
    prom,    \* [Acc -> ballot] the highest ballot promised
    ab, av,  \* [Acc -> ballot], [Acc -> value] what is durably accepted
    rem,     \* [Acc -> time] what is left of the timer; 0 guards nothing
    ep,      \* [Acc -> epoch] 1 old, 2 joint, 3 new; 0 has no vote yet
    p1,      \* PROMISE messages
    p2,      \* Accept messages
    acks,    \* [Ballots -> SUBSET Acc] who durably accepted it, ever
    ren,     \* Renew messages with those that acknowledged them; their attempt is named by its age
    rel,     \* ballots released
    hold,    \* [Clients -> [st, left]] what each client believes
    granted  \* (client, term) pairs that were handed out

acceptorVars == <<prom, ab, av, rem>>
messageVars == <<p1, p2, acks, ren, rel>>
clientVars == <<hold, granted>>
vars == <<acceptorVars, ep, messageVars, clientVars>>

-----------------------------------------------------------------------------
Acc == Old \cup New
Ballots == 1..MaxB
M(rule) == rule \in Mut
Nobody == [h |-> 0, t |-> 0]
Forever == 1000000
Max(x, y) == IF x > y THEN x ELSE y

\* Section 4.  The ends, in true time, of the worst clocks.
IsNever(c) == c \in NeverClients
AcceptorWaits == Duration - Skew
HolderBelieves == (IF M("nomargin") THEN Duration ELSE Duration - Margin) + Skew
GuardOf(v) == IF v.h = 0 THEN 0 ELSE IF IsNever(v.h) THEN Forever ELSE AcceptorWaits
BeliefOf(v, age) == IF IsNever(v.h) THEN Forever ELSE HolderBelieves - age

Majority(S, members) == 2 * Cardinality(S \cap members) > Cardinality(members)

\* R6, R8: quorums are sets of members, so whoever answers twice counts once; while joint, a majority of both sets.
IsQuorum(S, e) ==
    CASE M("byarrival") -> S # {}
      [] e = 1 -> Majority(S, Old)
      [] e = 2 -> IF M("jointone") THEN Majority(S, New) ELSE Majority(S, Old) /\ Majority(S, New)
      [] e = 3 -> Majority(S, New)
      [] OTHER -> FALSE

\* R7: holders are compared by the nonce alone; by name, two lives of one name are one.
Same(c, h) == c = h \/ (M("name") /\ c # 0 /\ h # 0)

Init ==
    /\ prom = [a \in Acc |-> 0] /\ ab = [a \in Acc |-> 0] /\ av = [a \in Acc |-> Nobody]
    /\ rem = [a \in Acc |-> 0]
    /\ ep = [a \in Acc |-> IF a \in Old THEN 1 ELSE 0]
    /\ p1 = {} /\ p2 = {} /\ acks = [b \in Ballots |-> {}] /\ ren = {} /\ rel = {}
    /\ hold = [c \in Clients |-> [st |-> "idle", left |-> 0]]
    /\ granted = {}

-----------------------------------------------------------------------------
(* The acceptor (protocol, section 3).                                     *)

IsLive(a) == av[a].h # 0 /\ rem[a] > 0

ValueUnder(b) == (CHOOSE m \in p2 : m.b = b).v

\* R1: a durably accepted ballot of another nonce, above ours and below the asking one.
Evidence(a, b) ==
    \/ /\ ~M("noseen")
       /\ \E k \in (IF M("seenabove") THEN Ballots ELSE 1..(b - 1)) :
            /\ acks[k] # {}
            /\ IF M("seenlower") THEN k # ab[a] ELSE k > ab[a]
            /\ M("seensame") \/ ValueUnder(k).h # av[a].h
    \/ /\ M("seenpromise")
       /\ \E k \in p1 : k.b < b /\ k.b > ab[a] /\ Owner(k.b) # av[a].h

\* Promises to a ballot that has proposed are of no use to anybody, so they are forgotten: fewer states.
KeepsPromises == Mut \cap {"twovalues", "seenpromise"} # {}
IsSpent(b) == ~KeepsPromises /\ \E m \in p2 : m.b = b

\* R8: an attempt lives in one epoch, and an acceptor answers for its own.
IsOurEpoch(e, a) == ep[a] > 0 /\ (e = ep[a] \/ M("epochblind"))

\* Phase 1(b).  Prepare itself is no step: any ballot may be asked for at any time, and a refusal changes nothing.
Promise(a, b) ==
    /\ ep[a] \in 1..2 \/ a \in New
    /\ \A m \in p1 : m.b = b => IsOurEpoch(m.e, a)
    /\ b > prom[a]                                             \* R3
    /\ \/ M("noguard")                                         \* R1
       \/ ~IsLive(a) \/ Same(Owner(b), av[a].h) \/ Evidence(a, b)
    /\ prom' = [prom EXCEPT ![a] = b]
    /\ LET e == IF \E m \in p1 : m.b = b THEN (CHOOSE m \in p1 : m.b = b).e ELSE ep[a]
       IN p1' = IF IsSpent(b) THEN p1 ELSE p1 \cup {[a |-> a, b |-> b, e |-> e, ab |-> ab[a], av |-> av[a]]}
    /\ ep[a] > 0
    /\ UNCHANGED <<ab, av, rem, ep, p2, acks, ren, rel, clientVars>>

\* One durable record: ballot, value and promise; then the timer, which for the same holder never gets shorter.
TakeValue(a, b, v) ==
    /\ prom' = [prom EXCEPT ![a] = IF M("noraise") THEN @ ELSE b]   \* R4
    /\ ab' = [ab EXCEPT ![a] = b]
    /\ av' = [av EXCEPT ![a] = v]
    /\ rem' = [rem EXCEPT ![a] = IF av[a].h = v.h THEN Max(@, GuardOf(v)) ELSE GuardOf(v)]
    /\ acks' = [acks EXCEPT ![b] = @ \cup {a}]

MayTake(a, m) ==
    /\ IsOurEpoch(m.e, a)
    /\ m.b >= prom[a]
    /\ ab[a] # m.b
    /\ M("noraise") \/ ab[a] < m.b

\* Phase 2(b), also by catch-up, which brings a late copy of the same message.
Accept(a) ==
    \E m \in p2 :
        /\ MayTake(a, m)
        /\ TakeValue(a, m.b, m.v)
        /\ UNCHANGED <<ep, p1, p2, ren, rel, clientVars>>

\* A repeated Accept is no news to the disk and restarts the timer.
Repeat(a) ==
    /\ "repeat" \in Steps
    /\ \E m \in p2 :
        /\ IsOurEpoch(m.e, a) /\ ab[a] = m.b /\ prom[a] <= m.b
        /\ rem[a] < GuardOf(m.v)
        /\ rem' = [rem EXCEPT ![a] = GuardOf(m.v)]
        /\ UNCHANGED <<prom, ab, av, ep, messageVars, clientVars>>

\* R2: a renewal is acknowledged for the durable value under an unbroken promise, and for nothing else.
Renew(a) ==
    \E m \in ren, n \in p2 :
        /\ n.b = m.b /\ IsOurEpoch(m.e, a)
        /\ M("renewnopromise") \/ m.b >= prom[a]
        /\ \/ /\ ab[a] = m.b
              /\ rem' = [rem EXCEPT ![a] = Max(@, GuardOf(n.v))]
              /\ UNCHANGED <<prom, ab, av, acks>>
           \/ /\ ab[a] # m.b /\ ~M("renewvolatile")             \* NEED_VALUE: the full Accept, then its ack
              /\ MayTake(a, n) /\ TakeValue(a, n.b, n.v)
           \/ /\ ab[a] < m.b /\ M("renewvolatile")
              /\ UNCHANGED <<prom, ab, av, rem, acks>>
        /\ ren' = IF m.age < HolderBelieves THEN (ren \ {m}) \cup {[m EXCEPT !.acks = @ \cup {a}]} ELSE ren
        /\ <<rem', ren', ab'>> # <<rem, ren, ab>>
        /\ UNCHANGED <<ep, p1, p2, rel, clientVars>>

\* Volatile is enough for a timed lease; a lease that no time ends is not released so (section 4).
OnRelease(a) ==
    /\ IF M("releaseany") THEN rel # {} ELSE ab[a] \in rel
    /\ rem[a] > 0 /\ rem[a] < Forever
    /\ rem' = [rem EXCEPT ![a] = 0]
    /\ UNCHANGED <<prom, ab, av, ep, messageVars, clientVars>>

\* R5: the whole duration again, and every ballot below the ceiling counts as promised.
Ceiling(b) == IF b = 0 THEN 0 ELSE ((b - 1) \div Block + 1) * Block

Restart(a) ==
    /\ "restart" \in Steps
    /\ rem' = [rem EXCEPT ![a] = IF M("notfresh") THEN 0 ELSE GuardOf(av[a])]
    /\ IF M("amnesia")                                          \* R4, R8: acknowledged, and not on the disk
       THEN /\ prom' = [prom EXCEPT ![a] = 0]
            /\ ab' = [ab EXCEPT ![a] = 0]
            /\ av' = [av EXCEPT ![a] = Nobody]
       ELSE /\ \E p \in {prom[a], Ceiling(prom[a])} :
                 prom' = [prom EXCEPT ![a] = IF M("volpromise") THEN ab[a] ELSE p]
            /\ UNCHANGED <<ab, av>>
    /\ acceptorVars' # acceptorVars
    /\ UNCHANGED <<ep, messageVars, clientVars>>

-----------------------------------------------------------------------------
(* The proposer.                                                           *)

Best(R) == IF M("anyvalue") THEN CHOOSE m \in R : \A n \in R : m.ab <= n.ab   \* R7: the highest ballot decides
                            ELSE CHOOSE m \in R : \A n \in R : m.ab >= n.ab

\* R7: values that a LIVE reported count as seen, too.  What it reports was durably accepted below b.
Seen(b, best) ==
    {best.av} \cup {ValueUnder(k) : k \in {j \in Ballots : best.ab < j /\ j < b /\ acks[j] # {}}}

HasLetGo(c) == hold[c].st = "ended" \/ (M("letgolast") /\ hold[c].st = "holds")

IsNeverHeld(v) == v.h # 0 /\ IsNever(v.h)

\* `decide`: what phase 2 may propose for client c, given the highest value seen, and to whom it is granted then.
Decisions(c, seen) ==
    {IF Same(c, seen.h) THEN [v |-> seen, to |-> c]             \* its own: the same value, the same term
     ELSE IF IsNeverHeld(seen) /\ ~M("replacenever")
     THEN [v |-> seen, to |-> 0]                                \* section 4: completed for whom it names
     ELSE [v |-> [h |-> c, t |-> IF M("sameterm") THEN Max(seen.t, 1) ELSE seen.t + 1], to |-> c]}
    \cup (IF "vacate" \in Steps /\ HasLetGo(c) /\ seen.h = c
          THEN {[v |-> [h |-> 0, t |-> IF M("tombstone") THEN 0 ELSE seen.t], to |-> 0]} ELSE {})
    \cup (IF "handover" \in Steps /\ HasLetGo(c)
          THEN {[v |-> IF seen.h = d THEN seen ELSE [h |-> d, t |-> seen.t + 1], to |-> d] :
                    d \in {x \in Clients \ {c} : seen.h \in {c, x}}}
          ELSE {})

\* Phase 2(a): a majority of promises of one epoch, and what they reported decides.
Propose(b) ==
    /\ IF M("twovalues") THEN TRUE ELSE ~\E m \in p2 : m.b = b  \* R3: a ballot proposes once
    /\ \E e \in 1..3 :
       \E S \in SUBSET {m.a : m \in {n \in p1 : n.b = b}} :
          LET R == {m \in p1 : m.b = b /\ m.a \in S /\ (m.e = e \/ M("epochblind"))} IN
            /\ {m.a : m \in R} = S
            /\ IsQuorum(S, e)
            /\ \E c \in (IF Owner(b) = 0 THEN Clients ELSE {Owner(b)}) :
               \E seen \in Seen(b, Best(R)) : \E d \in Decisions(c, seen) :
                  p2' = p2 \cup {[b |-> b, e |-> e, to |-> d.to, v |-> d.v, age |-> 0]}
    /\ p2' # p2
    /\ p1' = IF KeepsPromises THEN p1 ELSE {m \in p1 : m.b # b}
    /\ UNCHANGED <<acceptorVars, ep, acks, ren, rel, clientVars>>

-----------------------------------------------------------------------------
(* The client: what it believes counts from its own send (R6).             *)

MayStart(c) == hold[c].st # "ended" \/ M("resurrect")

Believe(c, v, left) ==
    /\ MayStart(c)                                              \* R6: after its end a nonce is dead
    /\ left > hold[c].left
    /\ hold' = [hold EXCEPT ![c] = [st |-> "holds", left |-> left]]
    /\ granted' = granted \cup {[h |-> c, t |-> v.t]}
    /\ UNCHANGED <<acceptorVars, ep, messageVars>>

\* The first belief: a majority has durably accepted.
Grant(b) ==
    \E m \in p2 :
        /\ m.b = b /\ m.to # 0
        /\ IsQuorum(acks[b], m.e)
        /\ Believe(m.to, m.v, BeliefOf(m.v, IF M("fromreply") THEN 0 ELSE m.age))

\* Also the first claim of what a hand-over, or an attempt whose answers were lost, left behind.
SendRenew(c) ==
    /\ "renew" \in Steps /\ c \in Holders
    /\ \E m \in p2 :
        /\ m.v.h = c
        /\ \E e \in {ep[a] : a \in Acc} \ {0} : ren' = ren \cup {[b |-> m.b, e |-> e, age |-> 0, acks |-> {}]}
           /\ ~\E x \in ren : x.b = m.b /\ x.e = e /\ x.age = 0
    /\ UNCHANGED <<acceptorVars, ep, p1, p2, acks, rel, clientVars>>

\* Every later one: a majority has acknowledged one and the same renewal (R6).
GrantRenew(c) ==
    \E m \in ren, n \in p2 :
        /\ n.b = m.b /\ n.v.h = c /\ m.age < HolderBelieves
        /\ IsQuorum(IF M("mixatt") THEN UNION {x.acks : x \in {y \in ren : y.b = m.b}} ELSE m.acks, m.e)
        /\ Believe(c, n.v, BeliefOf(n.v, m.age))

\* A holder stops believing first, and then its node says so (H23); also when time has ended its belief.
LetGo(c) ==
    /\ Steps \cap {"release", "vacate", "handover"} # {} /\ c \in Holders
    /\ \E m \in p2 : m.v.h = c
    /\ hold' = IF M("letgolast") THEN hold ELSE [hold EXCEPT ![c] = [st |-> "ended", left |-> 0]]
    /\ rel' = IF "release" \in Steps /\ ~IsNever(c)
              THEN rel \cup {m.b : m \in {n \in p2 : n.v.h = c}} ELSE rel
    /\ <<hold', rel'>> # <<hold, rel>>
    /\ UNCHANGED <<acceptorVars, ep, p1, p2, acks, ren, granted>>

-----------------------------------------------------------------------------
(* The members (protocol, section 6; R8).  The member register decides the *)
(* order of the epochs; modelled is what each node does with them.         *)

IsChange == Old # New

\* Old members leave epoch 1 for the joint one, each in its own time.
EnterJoint(a) ==
    /\ IsChange /\ ~M("nojoint") /\ a \in Old /\ ep[a] = 1
    /\ ep' = [ep EXCEPT ![a] = 2]
    /\ UNCHANGED <<acceptorVars, messageVars, clientVars>>

\* What a member takes over from a majority of the old set that has left epoch 1: the highest value, the highest
\* promise, and a full timer.  It is no acceptance: nobody counts it for a ballot.
CopyTo(a) ==
    \E S \in SUBSET Old :
        /\ Majority(S, Old)
        /\ \A x \in S : ep[x] >= (IF Mut \cap {"copyearly", "nojoint"} # {} THEN 1 ELSE 2)
        /\ LET x == CHOOSE y \in S : \A z \in S : ab[y] >= ab[z]
               p == CHOOSE q \in {prom[y] : y \in S} : \A z \in S : q >= prom[z]
           IN /\ prom' = [prom EXCEPT ![a] = IF M("nopromcopy") THEN @ ELSE Max(@, p)]
              /\ IF ab[x] > ab[a]
                 THEN /\ ab' = [ab EXCEPT ![a] = ab[x]]
                      /\ av' = [av EXCEPT ![a] = av[x]]
                      /\ rem' = [rem EXCEPT ![a] = IF M("notimercopy") THEN 0 ELSE GuardOf(av[x])]
                 ELSE UNCHANGED <<ab, av, rem>>

\* A new member copies before it has a vote.
Join(a) ==
    /\ IsChange /\ a \in New \ Old /\ ep[a] = 0
    /\ IF M("nocopy") THEN UNCHANGED acceptorVars ELSE CopyTo(a)
    /\ ep' = [ep EXCEPT ![a] = IF M("nojoint") THEN 3 ELSE 2]
    /\ UNCHANGED <<messageVars, clientVars>>

\* The new set decides alone once majorities of both sets are in the joint epoch.  A member of both sets copies, too:
\* where the set shrinks, a majority of the new one may lie in what was a minority of the old one.
EnterNew(a) ==
    /\ IsChange
    /\ IF M("nojoint") THEN ep[a] = 1 ELSE ep[a] = 2 /\ IsQuorum({x \in Acc : ep[x] >= 2}, 2)
    /\ IF a \in Old \cap New /\ ~M("stayers") THEN CopyTo(a) ELSE UNCHANGED acceptorVars
    /\ ep' = [ep EXCEPT ![a] = 3]
    /\ UNCHANGED <<messageVars, clientVars>>

-----------------------------------------------------------------------------
(* Time (section 4).                                                       *)

Less(t, n) == IF t >= Forever THEN t ELSE Max(t - n, 0)
\* A message older than any belief is as good as one older still: so there are finitely many ages.
Older(age, n) == IF age + n >= HolderBelieves THEN HolderBelieves ELSE age + n

\* Nothing but the clock happens for n units.
Pass(n) ==
    /\ rem' = [a \in Acc |-> Less(rem[a], n)]
    /\ hold' = [c \in Clients |->
                 IF hold[c].st = "holds" /\ Less(hold[c].left, n) = 0 THEN [st |-> "ended", left |-> 0]
                 ELSE [hold[c] EXCEPT !.left = Less(@, n)]]
    /\ p2' = {[m EXCEPT !.age = Older(@, n)] : m \in p2}
    /\ ren' = {[m EXCEPT !.age = Older(@, n), !.acks = IF Older(m.age, n) < HolderBelieves THEN @ ELSE {}] : m \in ren}
    /\ UNCHANGED <<prom, ab, av, ep, p1, acks, rel, granted>>

Tick == "tick" \in Steps /\ Pass(1)

Next ==
    \/ Tick
    \/ \E a \in Acc : \/ Accept(a) \/ Repeat(a) \/ Renew(a) \/ OnRelease(a) \/ Restart(a)
                      \/ EnterJoint(a) \/ Join(a) \/ EnterNew(a)
                      \/ \E b \in Ballots : Promise(a, b)
    \/ \E b \in Ballots : Propose(b) \/ Grant(b)
    \/ \E c \in Clients : SendRenew(c) \/ GrantRenew(c) \/ LetGo(c)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What must hold.                                                         *)

Believes(c) == hold[c].st = "holds" /\ hold[c].left > 0

\* No two clients believe at the same instant.
Belief == \A c, d \in Clients : Believes(c) /\ Believes(d) => c = d

\* A ballot has one value, and a term has one holder.
Agreement ==
    /\ \A m, n \in p2 : m.b = n.b => m.v = n.v
    /\ \A x, y \in granted : x.t = y.t => x = y

\* A later grant has a higher term.
Tokens == [][\A x \in granted' \ granted, y \in granted : x.t > y.t]_granted

\* What ended does not come back under its term.
Continuity == [][\A c \in Clients : hold[c].st = "ended" => hold'[c].st = "ended"]_hold

Symmetry == Permutations(Old \cap New) \cup Permutations(Old \ New) \cup Permutations(New \ Old)
=============================================================================
