"""``leaderlease node inspect``: what a data directory holds, and whether it is whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaderlease.cli.output import NOTHING, Table, output_option, plain, show, show_table
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import format_duration

if TYPE_CHECKING:
    from leaderlease.paxos.acceptor import Record
    from leaderlease.storage.inspect import Inspection


@click.command(short_help="Show and check a data directory, offline.")
@click.argument("directory", type=click.Path(path_type=Path))
@output_option
def inspect(directory: Path, output: str) -> None:
    """Show whose data DIRECTORY holds, its registers, and whether every checksum holds.

    Nothing is written, so a read-only copy will do. The node must be stopped. Exit code 0: the data is whole.
    74: it is damaged; what is shown may be incomplete.

    \b
    leaderlease node inspect /var/lib/leaderlease
    """
    from leaderlease.storage import inspect as storage
    from leaderlease.storage.directory import corrupt

    found = storage.inspect(directory)
    registers = [_register(record) for record in found.registers]
    if output == "table":
        _print(found, registers)
    else:
        show(output, {**_head(found), "registers": registers, "problems": list(found.problems)}, "",
             [register["name"] for register in registers])  # fmt: skip
    if found.problems:
        raise corrupt(directory, list(found.problems))


def _head(found: "Inspection") -> dict[str, Any]:
    identity = found.identity
    return {
        "directory": found.directory,
        "format": found.format,
        "cluster": identity.cluster if identity is not None else None,
        "member": identity.member if identity is not None else None,
        "incarnation": identity.life.incarnation if identity is not None else None,
        "epoch": found.epoch,
        "ceiling": found.ceiling,
        "members": plain(found.configuration.members) if found.configuration is not None else [],
        "peers": [
            {"member": member, "incarnation": life.incarnation, "boot_nonce": life.boot_nonce}
            for member, life in sorted(found.peers.items())
        ],
        "checked": found.checked,
    }


def _register(record: "Record") -> dict[str, Any]:
    from leaderlease.node.homes import LEASE, SPEC
    from leaderlease.paxos.membership import MEMBER_KEY

    kind, name = "other", record.key
    for prefix, called in ((LEASE, "lease"), (SPEC, "declaration")):
        if record.key.startswith(prefix):
            kind, name = called, record.key.removeprefix(prefix)
    if record.key == MEMBER_KEY:
        kind, name = "members", record.key
    value = record.value
    return {
        "kind": kind,
        "name": name,
        "term": value.term if value is not None else None,
        "holder": plain(value.holder) if value is not None else None,
        "duration_ms": value.duration_ms if value is not None and kind == "lease" else None,
        "accepted": _ballot(record.accepted),
        "promised": _ballot(record.promised),
    }


def _ballot(ballot: Ballot) -> str | None:
    return None if ballot == ZERO else str(ballot)


def _print(found: "Inspection", registers: list[dict[str, Any]]) -> None:
    head = _head(found)
    names = {member["uuid"]: member["name"] for member in head["members"]}
    own = head["member"] or "unknown: the identity cannot be read"
    whole = "all hold" if not found.problems else f"{len(found.problems)} problems"
    lines = {
        "directory": head["directory"],
        "format": head["format"],
        "cluster": head["cluster"] or "none yet: not bootstrapped",
        "member": f"{own} ({names[own]})" if own in names else own,
        "incarnation": head["incarnation"] if head["incarnation"] is not None else NOTHING,
        "epoch": f"{head['epoch']}: {', '.join(sorted(names.values()))}" if names else head["epoch"],
        "ceiling": head["ceiling"],
        "checksums": f"{head['checked']} rows checked, {whole}",
    }
    for label, text in lines.items():
        click.echo(f"{label:<13}{text}")
    for problem in found.problems:
        click.echo(f"{'damage':<13}{problem}")
    if registers:
        click.echo()
        columns = ("KIND", "NAME", "TERM", "HOLDER", "DURATION", "ACCEPTED", "PROMISED")
        show_table(Table(columns, [_row(register) for register in registers]))


def _row(register: dict[str, Any]) -> tuple[str, ...]:
    is_lease = register["kind"] == "lease" and register["term"] is not None
    return (
        register["kind"],
        register["name"],
        str(register["term"]) if register["term"] is not None else NOTHING,
        register["holder"]["name"] if register["holder"] else NOTHING,
        format_duration(register["duration_ms"]) if is_lease else NOTHING,
        register["accepted"] or NOTHING,
        register["promised"] or NOTHING,
    )
