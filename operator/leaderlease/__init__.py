"""Leader election and leases, decided by an embedded Paxos quorum."""

__version__ = "0.1.0"
