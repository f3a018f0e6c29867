"""One client session without I/O: messages and clock readings in, messages and events out (protocol, section 5).

Rule 1: validity counts from this client's own reading before the send of the message that a grant, a keepalive or a
        renewal names; never from the reply (R6, H16, H17).
Rule 2: a lease that was given up stays given up; what arrives later for its nonce is dropped (H18).
Rule 3: a nonce is asked for again on the next connection, with ``is_waiting``; another term for a believed nonce is
        a loss, never a continuation (H18, H35).
Rule 4: a release makes the lease unbelieved first; a lost lease is let go at the node when its work has ended or its
        validity has run out, whichever comes first, so that no keepalive prolongs what nobody uses (H23).

The driver calls a method, then takes ``outgoing`` and ``events``, and calls ``tick`` after ``due_ms``.
"""

from typing import Any, Final

import msgspec

from leaderlease.client.campaign import Campaign, Phase
from leaderlease.client.clock import Instant, elapsed_ms
from leaderlease.client.events import Ended, Event, Failure, Lapsed, Observed, Ready, Rejected, Replied, StepDown, Won
from leaderlease.client.keepalive import IDLE, KeepAlives, Pace
from leaderlease.client.requests import Request, Watch, error_of
from leaderlease.errors import ConfigError, ConnectionFailed, LeaderLeaseError, OutcomeUnknown
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire

LEASES_MAX: Final = 65_536
"""Campaigns of one session."""
REQUESTS_MAX: Final = 65_536
"""Requests of one session that wait for an answer."""
HELLO_TIMEOUT_MS: Final = 1_000
"""A node that says no hello for so long is given up."""
RETRY_FIRST_MS: Final = 20
RETRY_MAX_MS: Final = 1_000
"""Pause before a nonce is asked for again after its outcome was unknown; doubles with each failure."""


class SessionCore:
    """State of one session over all its connections, one at a time.

    Args:
        name: Shown in the node's log.
        token: Bearer token, or empty.
        rho_ppm: Bound on the rate error of the clock whose readings are passed in.
        software: Name and version of the client.
        priority: Shown with each campaign, for leases that prefer the highest.
        since_ms: Wall clock at which this candidate began to run, for leases that prefer the newest; 0 does not say.
    """

    def __init__(
        self,
        *,
        name: str = "",
        token: str = "",
        rho_ppm: int,
        software: str = "",
        priority: int = 0,
        since_ms: int = 0,
    ) -> None:
        self.rho_ppm = rho_ppm
        self._priority, self._since_ms = priority, since_ms
        self.outgoing: list[Any] = []
        self.events: list[Event] = []
        self.is_open = False
        self.is_ready = False
        self.hello: wire.Hello | None = None
        self._hello = wire.Hello(
            "client", wire.PROTOCOL_MIN, wire.PROTOCOL_MAX, name=name, token=token, software=software
        )
        self._cluster = ""
        self._opened: Instant | None = None
        self._request = 0
        self._keepalives = KeepAlives()
        self._campaigns: dict[str, Campaign] = {}
        self._asks: dict[int, Campaign] = {}
        self._zombies: dict[str, Campaign] = {}
        self._requests: dict[int, Request] = {}
        self._watches: dict[int, Watch] = {}
        self._pace: Pace | None = None
        self._sweep: tuple[Instant, float] | None = None
        self._retries: list[Campaign] = []

    # --- the connection --------------------------------------------------------------------------------------

    def use_token(self, token: str) -> None:
        """Show this bearer token from the next connection on."""
        self._hello = msgspec.structs.replace(self._hello, token=token)

    def open(self, now: Instant) -> None:
        """Take note of a new connection and say hello on it."""
        self.is_open, self.is_ready = True, False
        self._opened = now
        self._keepalives.reset()
        self.outgoing = [self._hello]

    def close(self, reason: str, now: Instant) -> None:
        """Take note that the connection is gone; requests that must not be repeated fail with ``OutcomeUnknown``."""
        if not self.is_open:
            return
        self.is_open = self.is_ready = False
        self.outgoing.clear()
        self._asks.clear()
        self._retries.clear()
        self._zombies.clear()
        for campaign in self._campaigns.values():
            campaign.request, campaign.ordinal, campaign.retry = 0, None, None
        for number, request in list(self._requests.items()):
            if request.is_sent and not request.is_repeatable:
                del self._requests[number]
                error = OutcomeUnknown(f"the connection was lost before the answer came ({reason})")
                self.events.append(Failure(request, error))
            request.is_sent = False
        self.events.append(Ended(reason))

    def receive(self, message: Any, now: Instant) -> None:
        """Take one message of the node."""
        if not self.is_open:
            return
        match message:
            case wire.Hello():
                self._greeted(message, now)
            case wire.Refused():
                self.close(f"the node refuses this client: {message.text}", now)
            case _ if not self.is_ready:
                self.close("the node did not say hello first", now)
            case wire.KeptAlive():
                self._kept_alive(message, now)
            case wire.Kept():
                self._renewed(message, now)
            case wire.Granted():
                self._granted(message, now)
            case wire.Denied():
                self._denied(message, now)
            case wire.Lost():
                campaign = self._campaigns.get(message.nonce)
                if campaign is not None and campaign.phase is Phase.HELD:
                    campaign.ordinal = None
                    self._lose(campaign, message.reason, now)
            case wire.StepDownAsked():
                campaign = self._campaigns.get(message.nonce)
                if campaign is not None and campaign.phase is Phase.HELD:
                    campaign.successor = message.successor
                    self.events.append(StepDown(campaign, message.successor))
            case wire.Transition():
                watch = self._watches.get(message.request)
                if watch is not None and watch.take(message):
                    self.events.append(Observed(watch))
            case wire.GoAway():
                self.close(f"the node sends its clients to others: {message.reason}", now)
            case wire.Failed() if message.request in self._asks:
                self._ask_failed(self._asks.pop(message.request), error_of(message), now)
            case wire.Failed():
                self._replied(message.request, error_of(message))
            case _:
                self._replied(message.request, message)

    def tick(self, now: Instant) -> None:
        """Do what time demands: give leases up, renew, ask again, give a silent node up."""
        if self._sweep is not None and _due(self._sweep, now) <= 0:
            self._sweep_leases(now)
        if not self.is_open:
            return
        if not self.is_ready:
            if self._opened is not None and elapsed_ms(self._opened, now) >= HELLO_TIMEOUT_MS:
                self.close(f"no hello within {HELLO_TIMEOUT_MS} ms", now)
            return
        pace = self.pace
        if self._keepalives.patience_ms(pace, now) <= 0:
            self.close(f"a keepalive was not answered within {pace.answer_ms:.0f} ms", now)
            return
        if self._keepalives.due_ms(pace, now) <= 0:
            self.outgoing.append(self._keepalives.message(now))
        retries, self._retries = self._retries, []
        for campaign in retries:
            if campaign.retry is not None and _due(campaign.retry, now) > 0:
                self._retries.append(campaign)
            else:
                self._ask(campaign, now)

    def due_ms(self, now: Instant) -> float:
        """Return after how many milliseconds ``tick`` has something to do; infinity when it never has."""
        due = float("inf")
        if self._sweep is not None:
            due = _due(self._sweep, now)
        if self.is_ready:
            pace = self.pace
            due = min(due, self._keepalives.due_ms(pace, now), self._keepalives.patience_ms(pace, now))
            for campaign in self._retries:
                due = min(due, _due(campaign.retry, now) if campaign.retry is not None else 0.0)
        elif self.is_open and self._opened is not None:
            due = min(due, HELLO_TIMEOUT_MS - elapsed_ms(self._opened, now))
        return max(0.0, due)

    @property
    def pace(self) -> Pace:
        """What keepalives have to keep up with: the quickest that any lease of the session needs."""
        if self._pace is None:
            paces = [campaign.pace for campaign in self._campaigns.values()]
            self._pace = Pace(*map(min, zip(IDLE, *paces, strict=True)))
        return self._pace

    # --- leases ----------------------------------------------------------------------------------------------

    def campaign(self, name: str, holder: Holder, duration_ms: int | None, is_waiting: bool, now: Instant) -> Campaign:
        """Ask for a lease, now or as soon as there is a connection.

        Raises:
            ConfigError: The nonce is in use already, or the session has ``LEASES_MAX`` leases.
        """
        if holder.nonce in self._campaigns or holder.nonce in self._zombies:
            raise ConfigError(f"nonce {holder.nonce!r} is in use in this session: a campaign needs its own")
        if len(self._campaigns) >= LEASES_MAX:
            raise ConfigError(f"a session holds and wants at most {LEASES_MAX} leases")
        campaign = Campaign(name, holder, duration_ms, is_waiting, self.rho_ppm)
        self._campaigns[holder.nonce] = campaign
        self._pace = None
        if self.is_ready:
            self._ask(campaign, now)
        return campaign

    def abandon(self, campaign: Campaign, now: Instant) -> None:
        """Stop wanting a lease; should it be granted all the same, it is released at once."""
        if campaign.phase is Phase.ASKING:
            self._forget(campaign, Phase.ENDED)

    def release(self, campaign: Campaign, successor: str, now: Instant) -> Request | None:
        """Stop believing, then let go at the node, also on the next connection (H23). The work must have ended.

        Returns: The request, answered with ``Done`` or an error; None when there was nothing to let go.
        """
        if campaign.phase is Phase.LOST:
            if self._zombies.pop(campaign.holder.nonce, None) is not None:
                self._let_go(campaign)
            return None
        if campaign.phase is not Phase.HELD:
            return None
        self._forget(campaign, Phase.RELEASED)
        return self.ask(wire.ReleaseRequest(0, campaign.name, campaign.holder.nonce, successor), is_repeatable=True)

    def give_up(self, reason: str, now: Instant) -> None:
        """Lose every lease that ends by time: nobody will renew them any more. Leases without end stay held."""
        for campaign in list(self._campaigns.values()):
            if campaign.phase is Phase.HELD and campaign.duration_ms is not None:
                self._lose(campaign, reason, now)

    def _ask(self, campaign: Campaign, now: Instant) -> None:
        campaign.retry = None
        campaign.request = self._next_request()
        self._asks[campaign.request] = campaign
        self.outgoing.append(campaign.message(self._keepalives.number(now), self._priority, self._since_ms))

    def _granted(self, message: wire.Granted, now: Instant) -> None:
        self._asks.pop(message.request, None)
        campaign = self._campaigns.get(message.nonce)
        if campaign is None:
            # Nobody wants it any more; one whose work may still be ending waits for that (rule 4).
            zombie = self._zombies.get(message.nonce)
            if zombie is not None:
                zombie.ordinal = message.ordinal
            else:
                self._send_release(message.name, message.nonce)
            return
        campaign.request = 0
        campaign.ordinal = message.ordinal
        basis = self._keepalives.basis(message.seq)
        if campaign.phase is Phase.HELD:
            if message.term != campaign.term or message.duration_ms != campaign.duration_ms:
                self._lose(campaign, f"the quorum went on to term {message.term}", now)
                if message.duration_ms is None:
                    self._send_release(message.name, message.nonce)
            elif basis is None:
                self._retry(campaign, now)
            else:
                campaign.failures = 0
                self._extend(campaign, message.seq, basis, now)
            return
        campaign.duration_ms = message.duration_ms
        campaign.renew_deadline_ms, campaign.retry_period_ms = message.renew_deadline_ms, message.retry_period_ms
        self._pace = None
        if basis is not None:
            campaign.believe(message.seq, basis)
        belief = campaign.belief
        if belief is None or belief.remaining_ms(now) <= campaign.give_up_ms:
            # It waited longer than it may count. It was never believed, so a new round may prove it (H17, H18).
            campaign.belief = None
            self._retry(campaign, now)
            return
        campaign.term = message.term
        campaign.failures = 0
        campaign.phase = Phase.HELD
        self._watch_time(campaign, now)
        self.events.append(Won(campaign))

    def _denied(self, message: wire.Denied, now: Instant) -> None:
        campaign = self._asks.pop(message.request, None)
        if campaign is None:
            return
        campaign.request = 0
        if campaign.phase is Phase.HELD:
            self._lose(campaign, "another holder has it", now)
        elif campaign.is_waiting:
            self._retry(campaign, now)
        else:
            self._forget(campaign, Phase.ENDED)
            self.events.append(Rejected(campaign, message, None))

    def _ask_failed(self, campaign: Campaign, error: LeaderLeaseError, now: Instant) -> None:
        campaign.request = 0
        is_passing = error.code == "unknown" or (
            error.code == "quorum" and (campaign.is_waiting or campaign.phase is Phase.HELD)
        )
        if is_passing:
            self._retry(campaign, now)
        elif campaign.phase is Phase.HELD:
            self._lose(campaign, str(error), now)
        else:
            self._forget(campaign, Phase.ENDED)
            self.events.append(Rejected(campaign, None, error))

    def _retry(self, campaign: Campaign, now: Instant) -> None:
        pause_ms = 0 if not campaign.failures else RETRY_FIRST_MS << min(campaign.failures, 8)
        campaign.failures += 1
        campaign.retry = (now, float(min(pause_ms, RETRY_MAX_MS)))
        self._retries.append(campaign)

    def _kept_alive(self, message: wire.KeptAlive, now: Instant) -> None:
        self._keepalives.answered(message.seq)
        basis = self._keepalives.basis(message.seq)
        if basis is None:
            return
        failed = frozenset(message.failed)
        for campaign in list(self._campaigns.values()):
            if campaign.ordinal is not None and campaign.ordinal <= message.ordinal and campaign.name not in failed:
                self._extend(campaign, message.seq, basis, now)

    def _renewed(self, message: wire.Kept, now: Instant) -> None:
        campaign = self._campaigns.get(message.nonce)
        basis = self._keepalives.basis(message.seq)
        if campaign is not None and campaign.ordinal is not None and basis is not None:
            self._extend(campaign, message.seq, basis, now)

    def _extend(self, campaign: Campaign, seq: int, basis: Instant, now: Instant) -> None:
        if campaign.phase is not Phase.HELD:
            return
        if campaign.remaining_ms(now) <= 0:
            # The acknowledgement is late: this nonce is dead for this term (rule 2).
            self._lose(campaign, "no renewal was acknowledged in time", now)
            return
        campaign.believe(seq, basis)

    def _lose(self, campaign: Campaign, reason: str, now: Instant) -> None:
        is_known_here = campaign.ordinal is not None or campaign.request != 0
        self._forget(campaign, Phase.LOST)
        campaign.reason = reason
        if is_known_here and campaign.duration_ms is not None:
            self._zombies[campaign.holder.nonce] = campaign
            self._watch_time(campaign, now)
        self.events.append(Lapsed(campaign, reason))

    def _forget(self, campaign: Campaign, phase: Phase) -> None:
        campaign.phase = phase
        self._campaigns.pop(campaign.holder.nonce, None)
        self._pace = None
        if campaign.retry is not None:
            campaign.retry = None
            self._retries.remove(campaign)
        if campaign.request:
            self._asks.pop(campaign.request, None)
            if self.is_ready:
                self.outgoing.append(wire.CancelRequest(campaign.request))
            campaign.request = 0
        if phase is Phase.ENDED and campaign.ordinal is not None:
            # It was granted too late to be believed: unless it is let go, the keepalives of this session renew it.
            self._send_release(campaign.name, campaign.holder.nonce)

    def _watch_time(self, campaign: Campaign, now: Instant) -> None:
        """Let the next sweep be no later than this lease needs it."""
        belief = campaign.belief
        if belief is None or belief.validity_ms == float("inf"):
            return
        margin_ms = campaign.give_up_ms if campaign.phase is Phase.HELD else 0.0
        due = max(0.0, belief.remaining_ms(now) - margin_ms)
        if self._sweep is None or due < _due(self._sweep, now):
            self._sweep = (now, due)

    def _sweep_leases(self, now: Instant) -> None:
        self._sweep = None
        for campaign in list(self._campaigns.values()):
            if campaign.phase is not Phase.HELD:
                continue
            if campaign.duration_ms is not None and campaign.remaining_ms(now) <= campaign.give_up_ms:
                self._lose(campaign, "no renewal was acknowledged in time", now)
            else:
                self._watch_time(campaign, now)
        for nonce, campaign in list(self._zombies.items()):
            if campaign.belief is None or campaign.belief.remaining_ms(now) <= 0:
                del self._zombies[nonce]
                self._let_go(campaign)
            else:
                self._watch_time(campaign, now)

    def _let_go(self, campaign: Campaign) -> None:
        if self.is_ready and campaign.duration_ms is not None:
            self._send_release(campaign.name, campaign.holder.nonce)

    def _send_release(self, name: str, nonce: str) -> None:
        self.outgoing.append(wire.ReleaseRequest(self._next_request(), name, nonce))

    # --- requests and watches --------------------------------------------------------------------------------

    def ask(self, message: Any, *, is_repeatable: bool) -> Request:
        """Send a request, now or as soon as there is a connection; ``message.request`` is filled in.

        Raises:
            ConnectionFailed: ``REQUESTS_MAX`` requests wait already.
        """
        if len(self._requests) >= REQUESTS_MAX:
            raise ConnectionFailed(f"{REQUESTS_MAX} requests wait for an answer already")
        request = Request(msgspec.structs.replace(message, request=self._next_request()), is_repeatable)
        self._requests[request.id] = request
        self._send(request)
        return request

    def drop(self, request: Request) -> None:
        """Stop waiting for an answer."""
        self._requests.pop(request.id, None)

    def watch(self, prefix: str, is_exact: bool, since: int) -> Watch:
        """Subscribe to transitions, over all connections of this session."""
        watch = Watch(self._next_request(), prefix, is_exact, since)
        self._watches[watch.id] = watch
        if self.is_ready:
            self.outgoing.append(watch.message())
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a subscription."""
        if self._watches.pop(watch.id, None) is not None and self.is_ready:
            self.outgoing.append(wire.UnwatchRequest(watch.id))

    def _send(self, request: Request) -> None:
        if self.is_ready and not request.is_sent:
            request.is_sent = True
            self.outgoing.append(request.message)

    def _replied(self, number: int, answer: Any) -> None:
        request = self._requests.pop(number, None)
        if request is not None and isinstance(answer, LeaderLeaseError):
            self.events.append(Failure(request, answer))
        elif request is not None:
            self.events.append(Replied(request, answer))
        elif number in self._watches and isinstance(answer, LeaderLeaseError):
            self.events.append(Observed(self._watches.pop(number), answer))

    # --- the rest --------------------------------------------------------------------------------------------

    def _greeted(self, hello: wire.Hello, now: Instant) -> None:
        if self.is_ready:
            return
        if hello.version_min > wire.PROTOCOL_MAX or hello.version_max < wire.PROTOCOL_MIN:
            self.close(
                f"the node speaks versions {hello.version_min} to {hello.version_max} of the protocol and this client "
                f"{wire.PROTOCOL_MIN} to {wire.PROTOCOL_MAX}, so the older of the two must be upgraded",
                now,
            )
            return
        if self._cluster and hello.cluster and hello.cluster != self._cluster:
            self.close(f"it belongs to cluster {hello.cluster}, this session to {self._cluster}", now)
            return
        self._cluster = self._cluster or hello.cluster
        self.hello = hello
        self.is_ready = True
        self.events.append(Ready(hello))
        campaigns = sorted(self._campaigns.values(), key=lambda campaign: campaign.phase is not Phase.HELD)
        for campaign in campaigns:
            self._ask(campaign, now)
        for request in self._requests.values():
            self._send(request)
        for watch in self._watches.values():
            self.outgoing.append(watch.message())
            watch.is_resumed = True
        self.outgoing.append(self._keepalives.message(now))

    def _next_request(self) -> int:
        self._request += 1
        return self._request


def _due(timer: tuple[Instant, float], now: Instant) -> float:
    return timer[1] - elapsed_ms(timer[0], now)
