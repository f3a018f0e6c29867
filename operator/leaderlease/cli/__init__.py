"""The command line: one file for each group of commands, imported when it is used.

Rule 1: an error is one line on standard error that says what to do, and an exit code that tells scripts apart what
        happened (``docs/cli.md``). A traceback is a bug.
Rule 2: what a command prints for machines goes to standard output, everything else to standard error.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from leaderlease import __version__
from leaderlease.errors import LeaderLeaseError

PROGRAM: Final = "leaderlease"
EXIT_USAGE: Final = 2
EXIT_IO: Final = 74
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE

COMMANDS: Final = {
    "demo": "leaderlease.cli.demo",
    "dev": "leaderlease.cli.dev",
    "get": "leaderlease.cli.leases",
    "verify": "leaderlease.cli.leases",
    "transfer": "leaderlease.cli.leases",
    "release": "leaderlease.cli.leases",
    "declare": "leaderlease.cli.leases",
    "withdraw": "leaderlease.cli.leases",
    "status": "leaderlease.cli.status",
    "node": "leaderlease.cli.node",
    "operator": "leaderlease.cli.operator",
    "inject": "leaderlease.cli.inject",
    "certificates": "leaderlease.cli.certificates",
    "bench": "leaderlease.cli.bench",
    "run": "leaderlease.cli.run",
    "sidecar": "leaderlease.cli.sidecar",
    "completion": "leaderlease.cli.completion",
    "version": "leaderlease.cli.version",
}
"""Command -> the module that holds it as an attribute of the same name."""
SECTIONS: Final = {
    "Try it": ("demo", "dev"),
    "Work under a lease": ("run", "sidecar", "inject", "get", "verify"),
    "Operate": ("status", "declare", "withdraw", "transfer", "release"),
    "Run a quorum": ("node", "operator", "certificates", "bench"),
}
"""Sections of the help, in order; commands that are in none of them come last."""


class _ReaderHasLeft(Exception):
    """Whoever read our output does so no more."""


class Commands(click.Group):
    """Imports a command's module when the command is named, so that ``leaderlease run`` stays small."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which people need them."""
        return list(COMMANDS)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has left is told apart, because click would end with another code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _ReaderHasLeft from error
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, those that people need first at the top."""
        placed = {name for names in SECTIONS.values() for name in names}
        sections = {**SECTIONS, "More": tuple(name for name in COMMANDS if name not in placed)}
        width = max(map(len, COMMANDS))
        for title, names in sections.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                if command is not None:
                    rows.append((name.ljust(width), command.get_short_help_str(formatter.width)))
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of this name."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(module), cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
def root() -> None:
    """Leader election and leases, decided by a small Paxos quorum.

    Try it: leaderlease demo. A quorum to play with: leaderlease dev.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = root.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    except click.UsageError as error:
        _complain(f"{error.format_message().removesuffix('.')}{_hint(error)}")
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except LeaderLeaseError as error:
        _complain(str(error))
        return error.exit_code
    except (_ReaderHasLeft, BrokenPipeError):
        _forget_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}")
        _forget_output()
        return EXIT_IO


def log_to_stderr(level: str, name: str = "") -> None:
    """Send this process's log to standard error, one line each."""
    prefix = f"{name} " if name else ""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname).1s {prefix}%(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def _forget_output() -> None:
    """Nobody takes our output; the interpreter must not complain when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _hint(error: click.UsageError) -> str:
    return f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
