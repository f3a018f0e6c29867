"""``leaderlease completion``: scripts that make the Tab key work."""

from typing import Final

import click

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_LEADERLEASE_COMPLETE"


@click.command(short_help="Print a script that completes commands and leases.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for SHELL that completes commands, options, and names of leases (asked from the quorum).

    \b
    bash:  eval "$(leaderlease completion bash)"           in ~/.bashrc
    zsh:   eval "$(leaderlease completion zsh)"            in ~/.zshrc
    fish:  leaderlease completion fish | source            in ~/.config/fish/config.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root()
    # The base class's source: bash's own runs a bash first, which need not be installed where the script is made.
    click.echo(ShellComplete.source(found(root.command, {}, "leaderlease", VARIABLE)))
