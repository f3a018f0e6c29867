"""What a plan may want done. Values: whoever applies them does the I/O."""

from typing import Any

import msgspec

from leaderlease.controller.resource import Json, Kind, Pod
from leaderlease.wire.session import Spec


class Declare(msgspec.Struct, frozen=True):
    """Write a lease's declaration to its quorum."""

    quorum: str
    name: str
    spec: Spec


class Withdraw(msgspec.Struct, frozen=True):
    """Take a declaration back."""

    quorum: str
    name: str


class Apply(msgspec.Struct, frozen=True):
    """Apply an object on the server's side."""

    kind: Kind
    body: Json


class Delete(msgspec.Struct, frozen=True):
    """Delete an object, if it is still the one with this uid."""

    kind: Kind
    namespace: str
    name: str
    uid: str


class Label(msgspec.Struct, frozen=True):
    """Set a pod's role label; None removes it."""

    pod: Pod
    role: str | None


class Annotate(msgspec.Struct, frozen=True):
    """Set an annotation of a pod."""

    pod: Pod
    name: str
    value: str


class Post(msgspec.Struct, frozen=True):
    """Create an Event, unless it was created before: its name says which change it tells of."""

    body: Json


class PatchStatus(msgspec.Struct, frozen=True):
    """Apply a status.

    Attributes:
        version: Of the object that it was made for; another one takes no status of it. Empty applies it to any: the API
            server does not compare the uid of what only gets a status.
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    status: Json
    version: str = ""


Action = Declare | Withdraw | Apply | Delete | Label | Annotate | Post | PatchStatus


def covers(observed: Any, wanted: Any) -> bool:
    """Tell whether an object already says what is wanted; what the server added on top does not matter.

    Maps may hold more than is wanted, lists may not. An empty list is the same as none, for the server hands it out as
    null or not at all. An empty map is not: some fields say something by being there.
    """
    if isinstance(wanted, dict):
        return isinstance(observed, dict) and all(covers(observed.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        found = [] if observed is None else observed
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(covers(a, b) for a, b in zip(found, wanted, strict=True))
        )
    return bool(observed == wanted)
