"""``leaderlease status``: how every node is, and what the quorum can still lose."""

import asyncio
import time
from typing import Any

import click

from leaderlease.cli.connection import Connection, connection_options
from leaderlease.cli.output import NOTHING, Table, milliseconds, output_option, plain, show
from leaderlease.errors import ConnectionFailed, LeaderLeaseError, QuorumUnavailable

COLUMNS = (
    "NODE", "ENDPOINT", "STATE", "MEMBER", "INCARNATION", "EPOCH", "BALLOT", "FSYNC P99", "ROUND TRIP", "LEASES",
    "SESSIONS",
)  # fmt: skip


@click.command(short_help="Show every node, and how many more may fail.")
@connection_options
@output_option
def status(connection: Connection, output: str) -> None:
    """Ask every endpoint how it is, all at the same time, and say in words what the quorum can still lose.

    ROUND TRIP is from here; BALLOT is the highest counter that the node has seen, and rises with every grant that had
    to prepare. Members that no endpoint names are listed as the others see them.

    Exit code 0: a majority works together. 75: too few do. 69: no endpoint answers.
    """
    nodes = asyncio.run(_ask_all(connection))
    answered = [node for node in nodes if node["is_reachable"]]
    if not answered:
        reasons = "; ".join(f"{node['endpoint']}: {node['reason']}" for node in nodes)
        raise ConnectionFailed(f"no endpoint answers: {reasons}; is a node running there?")
    nodes += _unnamed(answered)
    quorum = summarize(answered)
    show(output, {"nodes": nodes, "quorum": quorum}, _table(nodes), [node["name"] for node in answered])
    if output == "table":
        for node in nodes:
            if node["reason"]:
                click.echo(f"{node['endpoint'] or node['name']}: {node['reason']}")
        click.echo(quorum["summary"])
    if not quorum["is_available"]:
        raise QuorumUnavailable(quorum["summary"])


async def _ask_all(connection: Connection) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_ask(connection, endpoint) for endpoint in connection.endpoints)))


async def _ask(connection: Connection, endpoint: str) -> dict[str, Any]:
    node: dict[str, Any] = {
        "endpoint": endpoint,
        "is_reachable": False,
        "reason": "",
        "round_trip_ms": None,
        "name": "",
    }
    try:
        async with connection.connected([endpoint]) as client:
            began_s = time.perf_counter()
            answer = await client.status()
            node["round_trip_ms"] = round((time.perf_counter() - began_s) * 1000, 3)
    except LeaderLeaseError as error:
        reasons = error.reasons if isinstance(error, ConnectionFailed) else {}
        return {**node, "reason": reasons.get(endpoint) or str(error)}
    peers = [_peer(peer) for peer in answer.peers]
    told = {**plain(answer), "fsync_p99_ms": round(answer.fsync_p99_ms, 3), "peers": peers}
    return {**node, **told, "is_reachable": True}


def _peer(peer: tuple[str, str, bool, float]) -> dict[str, Any]:
    name, member, is_reachable, round_trip_ms = peer
    known_ms = round(round_trip_ms, 3) if round_trip_ms >= 0 else None
    return {"name": name, "member": member, "is_reachable": is_reachable, "round_trip_ms": known_ms}


def _unnamed(answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the members that no endpoint led to, as the nodes that answered see them."""
    known = {node["member"] for node in answered}
    found: dict[str, dict[str, Any]] = {}
    for node in answered:
        for peer in node["peers"]:
            if peer["member"] in known:
                continue
            seen = found.setdefault(
                peer["member"],
                {"endpoint": "", "is_reachable": False, "reason": "", "round_trip_ms": None,
                 "name": peer["name"], "member": peer["member"], "seen_by": [], "missed_by": []},
            )  # fmt: skip
            seen["seen_by" if peer["is_reachable"] else "missed_by"].append(node["name"])
    return list(found.values())


def summarize(answered: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what the quorum can still lose, as the node that sees most members has it.

    Args:
        answered: Nodes that told their status; at least one.
    """
    best = max(answered, key=lambda node: (node["is_quorum_available"], node["can_lose"]))
    total, healthy, can_lose = best["members_total"], best["members_healthy"], best["can_lose"]
    clusters = sorted({node["cluster"] for node in answered})
    if len(clusters) > 1:
        words = (
            f"these endpoints belong to {len(clusters)} different clusters ({', '.join(clusters)}); ask one at a time"
        )
    elif not best["is_quorum_available"]:
        verb = "works" if healthy == 1 else "work"
        words = (
            f"no quorum: {healthy} of {total} nodes {verb} together, {healthy - can_lose} are needed; nothing is "
            "granted or renewed until then"
        )
    elif total == 1:
        words = "1 node; it can lose none: while it is down, nobody can acquire or renew"
    else:
        lose = {0: "no more: the next failure stops it"}.get(can_lose, f"{can_lose} more")
        words = f"{healthy} of {total} nodes work together; the quorum can lose {lose}"
    return {
        "clusters": clusters,
        "members_total": total,
        "members_healthy": healthy,
        "can_lose": can_lose,
        "is_available": bool(best["is_quorum_available"]) and len(clusters) == 1,
        "summary": words,
    }


def _table(nodes: list[dict[str, Any]]) -> Table:
    return Table(COLUMNS, [_row(node) for node in nodes], shrinking=("MEMBER",))


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    if not node["is_reachable"]:
        state = "unreachable"
        if not node["endpoint"]:
            state = f"seen by {', '.join(node['seen_by'])}" if node["seen_by"] else "missed by its peers"
        first = (node["name"] or NOTHING, node["endpoint"] or NOTHING, state, node.get("member") or NOTHING)
        return first + (NOTHING,) * (len(COLUMNS) - len(first))
    return (
        node["name"],
        node["endpoint"],
        "reachable",
        node["member"],
        str(node["incarnation"]),
        str(node["epoch"]),
        str(node["ballot_highest"]),
        milliseconds(node["fsync_p99_ms"]),
        milliseconds(node["round_trip_ms"]),
        str(node["leases_held"]),
        str(node["sessions"]),
    )
