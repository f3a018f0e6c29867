"""``leaderlease version``."""

import platform

import click

from leaderlease import __version__
from leaderlease.cli.output import output_option, show


@click.command(short_help="Print the version of this program.")
@output_option
def version(output: str) -> None:
    """Print the version of this program, of Python, and of the protocol and the disk format that it speaks."""
    text = f"leaderlease {__version__} (Python {platform.python_version()})"
    if output == "table":
        click.echo(text)
        return
    from leaderlease.storage.base import FORMAT
    from leaderlease.wire.session import PROTOCOL_MAX, PROTOCOL_MIN

    content = {
        "version": __version__,
        "python": platform.python_version(),
        "protocol_min": PROTOCOL_MIN,
        "protocol_max": PROTOCOL_MAX,
        "disk_format": FORMAT,
    }
    show(output, content, text, [__version__])
