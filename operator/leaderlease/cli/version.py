"""``leaderlease version``."""

import platform

import click

from leaderlease import __version__


@click.command()
def version() -> None:
    """Print the version of this program, and of Python."""
    click.echo(f"leaderlease {__version__} (Python {platform.python_version()})")
