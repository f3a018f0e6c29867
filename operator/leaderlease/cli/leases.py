"""Commands about leases: ``get``, ``verify``, ``declare``, ``withdraw``, ``transfer``, ``release``."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click

from leaderlease.cli.connection import (
    Connection,
    complete_lease,
    connection_options,
    lease_argument,
    read_seconds,
)
from leaderlease.cli.output import NOTHING, Stream, Table, age, clock_time, output_option, show
from leaderlease.errors import (
    ConfigError,
    LeaderLeaseError,
    LeaseLost,
    NotHolder,
    OutcomeUnknown,
)
from leaderlease.paxos.lease import MODES, PREFERENCES, Holder, format_duration, parse_name

if TYPE_CHECKING:
    from leaderlease.client.sdk import Client
    from leaderlease.wire.session import LeaseInfo, Transition

UNSAID: Final = ("0s", PREFERENCES[0])
"""What a declaration need not say."""
WAIT_DEFAULT: Final = "30s"
"""How long ``transfer`` waits until somebody else holds."""
HOLDER_COLUMN: Final = 24
NAME_COLUMN: Final = 32
"""Widths of a watch in characters; longer texts are not cut."""


# --- reading -------------------------------------------------------------------------------------------------


@click.command(short_help="Show leases: who holds them, under which term.")
@click.argument("name", required=False, shell_complete=complete_lease)
@click.option("-w", "--watch", "is_watching", is_flag=True, help="Then go on and show each transition until Ctrl-C.")
@click.option("--prefix", default="", metavar="TEXT", help="Only leases whose names begin with this, such as shop/.")
@connection_options
@output_option
def get(name: str | None, is_watching: bool, prefix: str, connection: Connection, output: str) -> None:
    """Show the lease NAME, or all leases.

    One lease is read from a majority of the nodes. The list is what one node knows, and so is what a watch tells:
    enough to look at, nothing to decide by; `leaderlease verify` decides. Watches miss nothing: where transitions
    may be missing, a line says `resync`.

    \b
    leaderlease get
    leaderlease get shop/billing -o json
    leaderlease get --prefix shop/ -w
    """
    if name is not None:
        parse_name(name)
        if prefix:
            raise click.UsageError("NAME and --prefix exclude each other", click.get_current_context())
    if is_watching:
        connection.run(lambda client: _watch(client, name, prefix, output))
    elif name is not None:
        info = connection.run(lambda client: client.get(name))
        if info is None:
            raise LeaderLeaseError(f"{name}: nobody has ever held it; leaderlease get lists the leases that exist")
        show(output, info, _table([info]), [info.name])
    else:
        found = connection.run(lambda client: client.list(prefix))
        if not found and output == "table":
            where = f" that begin with {prefix!r}" if prefix else ""
            click.echo(f"no leases{where} have been held yet", err=True)
            return
        show(output, {"items": found}, _table(found), [info.name for info in found])


async def _watch(client: "Client", name: str | None, prefix: str, output: str) -> None:
    columns = (("TIME", 12), ("LEASE", NAME_COLUMN), ("EVENT", 11), ("TERM", 6), ("HOLDER", HOLDER_COLUMN))
    stream = Stream(output, columns)
    async for change in client.watch(name or f"{prefix}*"):
        cells = (clock_time(change.at_ms), change.name, _event(change), str(change.term), _holder(change.holder))
        stream.show(change, cells, change.name)


def _event(change: "Transition") -> str:
    if change.kind == "state":
        return "held" if change.holder is not None else "vacant"
    return change.kind


def _table(found: "list[LeaseInfo]") -> Table:
    columns = ("NAME", "STATE", "HOLDER", "TERM", "DURATION", "REMAINING", "HELD FOR", "WAITING")
    return Table(columns, [_row(info) for info in found])


def _row(info: "LeaseInfo") -> tuple[str, ...]:
    is_held = info.holder is not None
    remaining = "never ends" if info.remaining_ms is None else f"{info.remaining_ms / 1000:.1f}s"
    return (
        info.name,
        info.state,
        _holder(info.holder),
        str(info.term),
        format_duration(info.duration_ms),
        remaining if is_held else NOTHING,
        age(info.acquired_at_ms) if is_held else NOTHING,
        ", ".join(info.candidates) or NOTHING,
    )


def _holder(holder: Holder | None) -> str:
    return holder.name if holder is not None else NOTHING


@click.command(short_help="Check a fencing token: is TERM the current one?")
@lease_argument
@click.argument("term", type=click.IntRange(min=1))
@connection_options
@output_option
def verify(name: str, term: int, connection: Connection, output: str) -> None:
    """Ask a majority of the nodes whether TERM is the current fencing token of the lease NAME.

    Exit code 0: it is current, and somebody holds the lease under it. 76: it is not. Any other: nobody could say.
    The answer is true of the moment at which it was read; a resource that must never see an old holder compares
    tokens itself.

    \b
    leaderlease verify shop/billing 7 && ./charge
    """
    parse_name(name)
    answer = connection.run(lambda client: client.verify(name, term))
    content = {"name": name, "term": term, "is_current": answer.is_current, "current_term": answer.term}
    if answer.is_current:
        show(output, content, f"{name}: term {term} is current", [name])
        return
    if output in ("json", "yaml"):
        show(output, content, "")
    if answer.term == term:
        why = "it has ended, and nobody holds the lease"
    else:
        why = f"the latest is {answer.term}" if answer.term else "nobody has ever held the lease"
    raise LeaseLost(f"{name}: term {term} is not current: {why}")


# --- operating -----------------------------------------------------------------------------------------------


@click.command(short_help="Say how long a lease lasts and who may hold it.")
@lease_argument
@click.option("--duration", default="3s", show_default=True, metavar="TIME",
              help="Until a silent holder has lost it, 100ms to 1h; or never: until it is given back.")  # fmt: skip
@click.option("--lock-delay", default="0s", show_default=True, metavar="TIME",
              help="Pause before a new holder after a holder was lost, 0s to 1h; none after a release.")  # fmt: skip
@click.option("--identity", "identities", multiple=True, metavar="TEXT",
              help="Who may hold; repeat it for more. Without it everybody may.")  # fmt: skip
@click.option("--mode", type=click.Choice(MODES, case_sensitive=False), default="Active", show_default=True,
              help="Paused and ObserveOnly admit nobody new; who holds goes on.")  # fmt: skip
@click.option("--renew-deadline", default="0s", metavar="TIME",
              help="A holder stops when no renewal was confirmed for so long; 0s leaves it to the client.")  # fmt: skip
@click.option("--retry-period", default="0s", metavar="TIME",
              help="Between two renewals; 0s is a third of the duration, which is the longest.")  # fmt: skip
@click.option("--preference", type=click.Choice(PREFERENCES, case_sensitive=False), default=PREFERENCES[0],
              show_default=True, help="Who is first where several could hold.")  # fmt: skip
@click.option("--no-failback", default="0s", metavar="TIME",
              help="How long a holder has led before a preferred candidate takes its place.")  # fmt: skip
@connection_options
@output_option
def declare(
    name: str,
    duration: str,
    lock_delay: str,
    identities: tuple[str, ...],
    mode: str,
    connection: Connection,
    output: str,
    **more: str,
) -> None:
    """Declare the lease NAME, or change what was declared: all of it, options not given take their defaults.

    A lease that is not declared cannot be acquired, unless the nodes run with --auto-declare. A new duration counts
    from the next holder on.

    \b
    leaderlease declare shop/billing --duration 3s
    leaderlease declare shop/migration --duration never --identity alice --identity bob
    """
    parse_name(name)
    declared: dict[str, Any] = {"duration": duration, "lock_delay": lock_delay, "identities": identities, "mode": mode}
    generation = connection.run(lambda client: client.declare(name, **declared, **more))
    content: dict[str, Any] = {
        "name": name,
        "generation": generation,
        "duration": duration,
        "lock_delay": lock_delay,
        "identities": list(identities),
        "mode": mode,
        **more,
    }
    who = ", ".join(identities) if identities else "everybody"
    extra = "".join(f", {key.replace('_', ' ')} {value}" for key, value in more.items() if value not in UNSAID)
    text = f"{name} declared: duration {duration}, lock delay {lock_delay}{extra}, {mode}, for {who}"
    text += f" (generation {generation})"
    show(output, content, text, [name])


@click.command(short_help="Take a declaration back: nobody new may hold.")
@lease_argument
@connection_options
@output_option
def withdraw(name: str, connection: Connection, output: str) -> None:
    """Take back what was declared for the lease NAME: nobody new may hold it; who holds goes on.

    Its terms go on rising should it be declared again. Nodes with --auto-declare admit everybody all the same.
    """
    parse_name(name)
    generation = connection.run(lambda client: client.withdraw(name))
    text = f"{name} withdrawn (generation {generation})"
    show(output, {"name": name, "generation": generation}, text, [name])


@click.command(short_help="Free a lease on behalf of a holder that is gone.")
@lease_argument
@click.option("--nonce", default="", metavar="HEX",
              help="Release as this holder; shown by: leaderlease get NAME -o json.")  # fmt: skip
@click.option("--revoke", is_flag=True, help="Take a lock of duration never from its holder, without asking it.")
@click.option("--term", type=click.IntRange(min=1), help="With --revoke: the term that you saw, and mean to end.")
@connection_options
@output_option
def release(name: str, nonce: str, revoke: bool, term: int | None, connection: Connection, output: str) -> None:
    """Free the lease NAME whose holder is gone.

    A holder that still works must not be released from outside: it believes until its time is up, while the next one
    starts. To ask a living holder to let go, use `leaderlease transfer NAME`. A lease with a duration frees itself
    when its holder is gone. So this command is for two cases:

    --nonce: the holder has ended without releasing, and its lease should not run out first. The nonce is the proof
    that this very holder is meant, and not the one that came after it.

    --revoke --term N: a lock of duration never whose holder will not come back. Nothing else ends it. A holder that
    is connected is told; one that is not may go on working, and only resources that compare tokens refuse it.

    \b
    leaderlease release shop/migration --revoke --term 4
    """
    parse_name(name)
    ctx = click.get_current_context()
    if revoke == bool(nonce) or (term is not None and not revoke):
        raise click.UsageError(
            f"say what to release: --nonce HEX of a holder that has ended, or --revoke --term N for a lock of duration "
            f"never; to ask a living holder: leaderlease transfer {name}",
            ctx,
        )
    if revoke:
        if term is None:
            raise click.UsageError(f"--term is missing: the term to end, shown by leaderlease get {name}", ctx)
        left = connection.run(lambda client: client.revoke(name, term))
        show(output, {"name": name, "term": left, "result": "revoked"}, f"{name}: term {term} revoked", [name])
        return
    connection.run(lambda client: client.release(name, nonce=nonce, timeout=connection.timeout_s))
    show(output, {"name": name, "result": "released"}, f"{name} released", [name])


@click.command(short_help="Ask the holder to let go, in favour of another.")
@lease_argument
@click.option("--to", "successor", default="", metavar="IDENTITY",
              help="Who should be next: a candidate that waits. Without it, whoever is first.")  # fmt: skip
@click.option("--wait", "wait", default=WAIT_DEFAULT, show_default=True, metavar="TIME",
              help="How long to wait until another holds; 0 only asks.")  # fmt: skip
@connection_options
@output_option
def transfer(name: str, successor: str, wait: str, connection: Connection, output: str) -> None:
    """Ask the holder of the lease NAME to let go, and wait until another holds it.

    The holder finishes its work first, so it decides how long this takes; nothing is taken from it. Exit code 75:
    not done in time; the holder was asked all the same.

    \b
    leaderlease transfer shop/billing --to bob
    """
    parse_name(name)
    wait_s = 0.0 if wait in ("0", "0s") else read_seconds(wait, "--wait")
    before, after = connection.run(lambda client: _transfer(client, name, successor, wait_s))
    old = _holder(before.holder)
    content = {"name": name, "from": old, "to": _holder(after.holder) if after is not None else None,
               "term": after.term if after is not None else before.term}  # fmt: skip
    if after is None:
        show(output, content, f"{name}: {old} was asked to let go of term {before.term}", [name])
        return
    new = _holder(after.holder)
    show(output, content, f"{name}: {old} -> {new}, term {before.term} -> {after.term}", [name])
    if successor and new != successor:
        raise LeaderLeaseError(f"{name}: {new} was faster than {successor}; does {successor} wait for the lease?")


async def _transfer(
    client: "Client", name: str, successor: str, wait_s: float
) -> "tuple[LeaseInfo, Transition | None]":
    before = await client.get(name)
    if before is None or before.holder is None:
        raise NotHolder(f"{name}: nobody holds it, so nobody can be asked to let go")
    if before.holder.name == successor:
        raise ConfigError(f"--to: {successor} holds {name} already, under term {before.term}")
    await client.step_down(name, successor)
    if not wait_s:
        return before, None
    is_free = False
    try:
        async with asyncio.timeout(wait_s):
            async for change in client.watch(name, since=before.term):
                if change.term > before.term and change.holder is not None:
                    return before, change
                is_free = change.holder is None
    except TimeoutError:
        if is_free:
            text = (
                f"{before.holder.name} let go, and nobody has taken it within {wait_s:g} s: does anybody wait for it?"
            )
        else:
            text = f"{before.holder.name} was asked and still holds term {before.term} after {wait_s:g} s"
        raise OutcomeUnknown(f"{name}: {text}") from None
    return before, None
