"""Leader election and leases, decided by an embedded Paxos quorum.

    import leaderlease

    async with leaderlease.connect() as client, client.lead("shop/billing", "alice") as lease:
        ...

``leaderlease.blocking`` has the same names for programs without an event loop. Names are imported when they are used.
"""

__version__ = "0.1.0"

# Type checkers know the name; importing ``typing`` would be most of the cost of this module.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from leaderlease.client import blocking as blocking
    from leaderlease.client.election import elect as elect
    from leaderlease.client.lease import Denied as Denied
    from leaderlease.client.lease import Lease as Lease
    from leaderlease.client.lease import Verification as Verification
    from leaderlease.client.sdk import Client as Client
    from leaderlease.client.sdk import connect as connect
    from leaderlease.errors import ConfigError as ConfigError
    from leaderlease.errors import ConnectionFailed as ConnectionFailed
    from leaderlease.errors import LeaderLeaseError as LeaderLeaseError
    from leaderlease.errors import LeaseLost as LeaseLost
    from leaderlease.errors import LeaseRefused as LeaseRefused
    from leaderlease.errors import NotHolder as NotHolder
    from leaderlease.errors import OutcomeUnknown as OutcomeUnknown
    from leaderlease.errors import QuorumUnavailable as QuorumUnavailable

_HOMES = {
    **dict.fromkeys(("Client", "connect"), "leaderlease.client.sdk"),
    **dict.fromkeys(("Denied", "Lease", "Verification"), "leaderlease.client.lease"),
    "elect": "leaderlease.client.election",
    **dict.fromkeys(
        (
            "ConfigError",
            "ConnectionFailed",
            "LeaderLeaseError",
            "LeaseLost",
            "LeaseRefused",
            "NotHolder",
            "OutcomeUnknown",
            "QuorumUnavailable",
        ),
        "leaderlease.errors",
    ),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "blocking":
        return import_module("leaderlease.client.blocking")
    if name in _HOMES:
        value: object = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "blocking"})
