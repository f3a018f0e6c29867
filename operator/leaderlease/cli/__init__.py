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
from typing import Final

import click

from leaderlease import __version__
from leaderlease.errors import LeaderLeaseError

PROGRAM: Final = "leaderlease"
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE

COMMANDS: Final = {
    "node": "leaderlease.cli.node",
    "version": "leaderlease.cli.version",
}
"""Command -> the module that holds it as an attribute of the same name. In the order of the help."""


class Commands(click.Group):
    """Imports a command's module when the command is named, so that ``leaderlease run`` stays small."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which people need them."""
        return list(COMMANDS)

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
        _complain(f"{error.format_message()}{_hint(error)}")
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except LeaderLeaseError as error:
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def log_to_stderr(level: str, name: str = "") -> None:
    """Send this process's log to standard error, one line each."""
    prefix = f"{name} " if name else ""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname).1s {prefix}%(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def _hint(error: click.UsageError) -> str:
    return f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
