"""Finds the nodes that the sidecar of a pod is to ask: those of the quorum that its LeaderLeases name."""

from leaderlease.controller.manager import Manager
from leaderlease.controller.parameters import PREFIX, Parameters
from leaderlease.controller.webhook import FindTarget, NotReady, Target
from leaderlease.errors import ConfigError


def targets(manager: Manager) -> FindTarget:
    """Return what looks into the caches of this replica; nothing is asked of the API server.

    A pod may be created before its LeaderLease: then it is the quorum of its annotation, else the operator's own.
    """

    def find(namespace: str, asked: Parameters) -> Target:
        if not manager.is_synced:
            raise NotReady("this replica has not listed all objects yet")
        watched = manager.settings.watch_namespaces
        quorums: dict[str, str] = {}
        for name in asked.leases:
            entry = manager.cache.lease((namespace, name))
            if entry is not None and entry.spec is not None:
                quorums[name] = entry.spec.quorum
        name = _quorum(namespace, asked, quorums) or manager.settings.lease_quorum
        link = manager.links.get(name)
        if link is None:
            raise ConfigError(
                f"{_who(namespace, asked, quorums)} quorum {name!r}: there is no LeaderQuorum of this name that "
                f"has endpoints; there are {', '.join(sorted(manager.links)) or 'none'}"
            )
        missing = tuple(one for one in asked.leases if one not in quorums)
        return Target(tuple(link.endpoints), missing if not watched or namespace in watched else ())

    return find


def _quorum(namespace: str, asked: Parameters, quorums: dict[str, str]) -> str:
    """Return the one quorum of all leases; empty if none of them exists yet and no annotation says it."""
    for lease, quorum in quorums.items():
        if asked.quorum and quorum != asked.quorum:
            raise ConfigError(
                f"annotation {PREFIX}quorum: {asked.quorum!r}, but LeaderLease {namespace}/{lease} is of {quorum!r}"
            )
    if len(set(quorums.values())) > 1:
        listed = ", ".join(f"{lease} of {quorum!r}" for lease, quorum in quorums.items())
        raise ConfigError(f"the leases are of several quorums ({listed}), and one sidecar asks one: use two pods")
    return next(iter(quorums.values()), asked.quorum)


def _who(namespace: str, asked: Parameters, quorums: dict[str, str]) -> str:
    if quorums:
        return f"LeaderLease {namespace}/{next(iter(quorums))} is of"
    return f"annotation {PREFIX}quorum names" if asked.quorum else "the pod is for"
