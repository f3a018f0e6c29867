"""How commands print: a table for people, JSON or YAML for programs, names for shells.

Rule 1: a terminal gets colours and a table that fits its width; a pipe gets plain columns that are never cut.
Rule 2: JSON and YAML have the field names of ``/v1/leases``: snake_case, milliseconds in ``_ms``, null for *never* and
        for *unknown*. A watch prints one JSON object a line, or one YAML document each.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

FORMATS: Final = ("table", "json", "yaml", "name")
NOTHING: Final = "-"
"""What a table shows where there is no value."""
SHRUNK_WIDTH: Final = 9
"""What is left of a column that is cut, in characters: the first block of a uuid and an ellipsis."""
_STYLES: Final = {
    **dict.fromkeys(("held", "acquired", "transferred", "reachable", "yes"), "green"),
    **dict.fromkeys(("in transition", "resync", "expired", "no"), "yellow"),
    **dict.fromkeys(("unreachable", "revoked"), "red"),
    **dict.fromkeys(("vacant", "released", NOTHING), "dim"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people.

    Attributes:
        columns: Headings, in capitals.
        rows: As many cells each as there are columns.
        shrinking: Columns that are cut where a terminal is too narrow.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shrinking: Sequence[str] = ()


def output_option(command: click.decorators.FC) -> click.decorators.FC:
    """Give a command ``-o``; it gets the argument ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print: for people, for programs, or only the names.",
    )(command)


def show(output: str, data: Any, text: "Table | str", names: Iterable[str] = ()) -> None:
    """Print one result on standard output.

    Args:
        output: One of ``FORMATS``.
        data: For JSON and YAML; structs get their field names.
        text: For ``table``.
        names: For ``name``, one a line.
    """
    if output == "json":
        click.echo(_json(plain(data), indent=2))
    elif output == "yaml":
        click.echo(_yaml(plain(data)), nl=False)
    elif output == "name":
        for name in names:
            click.echo(name)
    elif isinstance(text, str):
        click.echo(text)
    else:
        show_table(text)


class Stream:
    """Prints results one by one, as they come.

    Args:
        output: One of ``FORMATS``.
        columns: Headings and their widths in characters, for ``table``.
    """

    def __init__(self, output: str, columns: Sequence[tuple[str, int]]) -> None:
        self._output = output
        self._columns = columns
        self._is_begun = False

    def show(self, data: Any, cells: Sequence[str], name: str) -> None:
        """Print one result, at once also into a pipe."""
        if self._output == "json":
            click.echo(_json(plain(data), indent=-1))
        elif self._output == "yaml":
            click.echo(f"---\n{_yaml(plain(data))}", nl=False)
        elif self._output == "name":
            click.echo(name)
        else:
            if not self._is_begun:
                self._line([(column, "bold") for column, _ in self._columns])
            self._line([(cell, _STYLES.get(cell, "")) for cell in cells])
        self._is_begun = True
        sys.stdout.flush()

    def _line(self, cells: Sequence[tuple[str, str]]) -> None:
        parts = []
        for (_, width), (text, style) in zip(self._columns, cells, strict=True):
            pad = " " * max(0, width - len(text))
            parts.append(_styled(text, style) + pad)
        click.echo("  ".join(parts).rstrip())


def show_table(table: Table) -> None:
    """Print a table on standard output (rule 1)."""
    if not sys.stdout.isatty():
        widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
        for row in (table.columns, *table.rows):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, *cells in zip(table.columns, *table.rows, strict=True):
        least = SHRUNK_WIDTH if column in table.shrinking else max(map(len, (column, *cells)))
        drawn.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least)
    for row in table.rows:
        drawn.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)


def plain(content: Any) -> Any:
    """Turn structs into dictionaries with their field names, and tuples into lists."""
    fields = getattr(content, "__struct_fields__", None)
    if fields is not None:
        # ``request`` numbers a message on its connection: nothing for people.
        return {name: plain(getattr(content, name)) for name in fields if name != "request"}
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return content


def clock_time(at_ms: int) -> str:
    """Write a wall clock reading as people do, in local time."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"


def age(since_ms: int) -> str:
    """Say how long ago a wall clock reading was: ``7s``, ``3m12s``, ``5h20m``, ``4d``. For people only."""
    seconds = max(0, int(time.time() - since_ms / 1000))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60}m"
    return f"{seconds // 86_400}d"


def milliseconds(value: float | None) -> str:
    """Write a measured time; None and negative values are unknown."""
    if value is None or value < 0:
        return NOTHING
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def _styled(text: str, style: str) -> str:
    if not style or not sys.stdout.isatty():
        return text
    if style in ("bold", "dim"):
        return click.style(text, bold=style == "bold", dim=style == "dim")
    return click.style(text, fg=style)


def _json(content: Any, indent: int) -> str:
    import msgspec

    data = msgspec.json.encode(content)
    return (msgspec.json.format(data, indent=indent) if indent > 0 else data).decode()


def _yaml(content: Any) -> str:
    import yaml

    dump: Callable[..., str] = yaml.safe_dump
    return dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False)
