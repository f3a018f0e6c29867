"""The one tree of errors. Fields carry the data; the text is for people and says what to do.

    LeaderLeaseError
    ├── ProtocolError
    │   ├── LocalProtocolError    we did wrong: a bug here
    │   └── RemoteProtocolError   a peer or client did wrong: drop its connection, count it
    ├── InvariantViolated         a rule of the protocol is broken: stop, never go on
    ├── StorageError
    │   ├── CorruptRecord         a checksum or the format does not hold
    │   ├── WrongDirectory        another member's, another cluster's, a newer format's, or a locked directory
    │   └── DiskFailed            a write or fsync failed: leave the quorum (R9)
    ├── ConfigError               a flag, variable, file or argument cannot work
    ├── QuorumUnavailable         too few nodes answer
    ├── OutcomeUnknown            asked, and no answer came in time: ask again with the same identity
    ├── LeaseLost                 the lease may no longer be believed
    ├── NotHolder                 the caller does not hold what it wants to give away
    ├── LeaseRefused              the lease is not declared, or its rules do not admit the caller
    └── ConnectionFailed          no node can be reached, or the hello was refused

A refused ballot, a lease that somebody else holds, "not yet": these are values, not errors.
"""

from collections.abc import Mapping
from typing import ClassVar


class LeaderLeaseError(Exception):
    """Root of the tree. ``exit_code`` is what the command line ends with (``docs/cli.md``)."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"


class ProtocolError(LeaderLeaseError):
    """Bytes or messages that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """This process is about to break the protocol: a bug here, never the peer's fault."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the protocol: its connection is dropped and counted; this process goes on."""

    code = "protocol"


class InvariantViolated(LeaderLeaseError):
    """A statement that the safety argument rests on is false. The process must stop."""

    exit_code = 70


class StorageError(LeaderLeaseError):
    """The data directory cannot be used."""

    exit_code = 74


class CorruptRecord(StorageError):
    """What was read is not what was written."""


class WrongDirectory(StorageError):
    """The directory belongs to another member, cluster, format or process."""

    exit_code = 78


class DiskFailed(StorageError):
    """A write or an fsync failed; what the page cache shows may never reach the disk."""


class ConfigError(LeaderLeaseError):
    """A setting that cannot work; the text names the field, the value and what is allowed."""

    exit_code = 2
    code = "invalid"


class QuorumUnavailable(LeaderLeaseError):
    """Fewer nodes answer than a majority."""

    exit_code = 75
    code = "quorum"


class OutcomeUnknown(LeaderLeaseError):
    """The request may or may not have taken effect; the same identity may ask again, anywhere."""

    exit_code = 75
    code = "unknown"


class LeaseLost(LeaderLeaseError):
    """The holder may no longer believe that it holds the lease."""

    exit_code = 76
    code = "lost"


class NotHolder(LeaderLeaseError):
    """Only the holder may release, and nobody holds it under this identity."""

    exit_code = 77
    code = "not_holder"


class LeaseRefused(LeaderLeaseError):
    """The lease is not declared, or its specification does not admit this caller."""

    exit_code = 77
    code = "refused"


class ConnectionFailed(LeaderLeaseError):
    """No endpoint can be reached, or the node refused the hello.

    Attributes:
        reasons: Endpoint -> what became of it; may be empty.
    """

    exit_code = 69
    code = "connection"

    def __init__(self, text: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.reasons = dict(reasons or {})


def invariant(condition: object, message: str) -> None:
    """Raise :class:`InvariantViolated` unless ``condition`` holds; unlike ``assert``, also under ``-O``."""
    if not condition:
        raise InvariantViolated(message)
