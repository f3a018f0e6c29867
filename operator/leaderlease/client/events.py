"""What a session core tells its driver."""

from dataclasses import dataclass

from leaderlease.client.campaign import Campaign
from leaderlease.client.requests import Request, Watch
from leaderlease.errors import LeaderLeaseError
from leaderlease.wire.session import Denied, Hello


@dataclass(frozen=True, slots=True)
class Ready:
    """A node said hello: requests flow."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is to be closed, or is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Won:
    """The campaign holds its lease."""

    campaign: Campaign


@dataclass(frozen=True, slots=True)
class Rejected:
    """The campaign is over: somebody else holds, or it cannot be."""

    campaign: Campaign
    denied: Denied | None
    error: LeaderLeaseError | None


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The campaign's lease may no longer be believed."""

    campaign: Campaign
    reason: str


@dataclass(frozen=True, slots=True)
class StepDown:
    """Somebody asks the holder to let go."""

    campaign: Campaign
    successor: str


@dataclass(frozen=True, slots=True)
class Replied:
    """A request was answered; ``message`` is of the kind that it asks for."""

    request: Request
    message: object


@dataclass(frozen=True, slots=True)
class Failure:
    """A request failed."""

    request: Request
    error: LeaderLeaseError


@dataclass(frozen=True, slots=True)
class Observed:
    """A watch has something new in its buffer, or has ended with an error."""

    watch: Watch
    error: LeaderLeaseError | None = None


Event = Ready | Ended | Won | Rejected | Lapsed | StepDown | Replied | Failure | Observed
