"""How ``demo`` and ``dev`` speak to people: colours and moving bars in a terminal, plain lines when piped."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PLAIN_WIDTH: Final = 110
"""Columns when nobody says how wide the output is."""
RECORDING_WIDTH: Final = 98
BAR_CELLS: Final = 32
FRAMES_PER_S: Final = 20
SCARCE: Final = 0.35
"""A lease of which less than this share remains is shown in another colour."""
THEME: Final = TerminalTheme(
    (22, 27, 34),
    (217, 222, 228),
    [(22, 27, 34), (248, 113, 105), (86, 211, 100), (227, 179, 65), (108, 182, 255), (210, 168, 255), (86, 212, 221),
     (217, 222, 228)],
    [(125, 133, 144), (255, 150, 142), (126, 231, 135), (242, 204, 96), (140, 200, 255), (225, 190, 255),
     (120, 225, 235), (255, 255, 255)],
)  # fmt: skip
"""Of the recorded picture."""


class Output(Console):
    """A console whose reader may leave: that is the caller's to handle, as with any other output."""

    def on_broken_pipe(self) -> None:
        """Let the error that is being handled go on."""
        raise BrokenPipeError


class Narrator:
    """Prints a story of numbered steps.

    Args:
        recording: SVG file that :meth:`close` writes; None writes none.
    """

    def __init__(self, recording: Path | None = None) -> None:
        width = None if Console().is_terminal else PLAIN_WIDTH
        self.console = Output(highlight=False, width=width)
        self._recording = recording
        self._consoles: list[Console] = [self.console]
        if recording is not None:
            self._consoles.append(
                Console(record=True, file=io.StringIO(), width=RECORDING_WIDTH, force_terminal=True,
                        color_system="truecolor", highlight=False)
            )  # fmt: skip
        is_unicode = self.console.encoding.lower().startswith("utf")
        self._done, self._struck, self._full, self._empty = "✔✘━─" if is_unicode else "+x#."

    @property
    def is_live(self) -> bool:
        """Tell whether a person is watching a terminal."""
        return self.console.is_terminal

    def title(self, title: str, *details: str) -> None:
        """Begin."""
        self._print(Text(title, "bold cyan"))
        for detail in details:
            self._print(Text(detail, "bright_black"))

    def step(self, number: int, title: str) -> None:
        """Begin a step."""
        self._print("")
        self._print(Text.assemble((f"{number}  ", "bold cyan"), (title, "bold")))

    def done(self, text: str) -> None:
        """Say what has happened and was checked; ``[b]`` marks what matters."""
        self._line(self._done, "bold green", text)

    def struck(self, text: str) -> None:
        """Say what was destroyed."""
        self._line(self._struck, "bold red", text)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; a column whose name ends with ``>`` is aligned to the right."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 2))
        for column in columns:
            table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left")
        for row in rows:
            table.add_row(*(Text.from_markup(cell) for cell in row))
        self._print("")
        self._print(Text(title, "bold"))
        self._print(table)

    def hints(self, title: str, hints: Sequence[tuple[str, str]]) -> None:
        """Print commands and what each is for."""
        width = max(len(command) for command, _ in hints)
        self._print(Text(title, "bold"))
        for command, purpose in hints:
            self._print(Text.assemble("   ", (command.ljust(width), "cyan"), "   ", (purpose, "bright_black")))

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show that something is awaited; nothing of it stays."""
        if not self.is_live:
            yield
            return
        with self.console.status(Text(text, "bright_black"), spinner="dots", spinner_style="cyan"):
            yield

    @contextlib.contextmanager
    def bar(self) -> Iterator["Bar"]:
        """Show a bar that the caller moves; nothing of it stays."""
        bar = Bar(self._full, self._empty)
        if not self.is_live:
            yield bar
            return
        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            bar.live = live
            yield bar

    def close(self) -> None:
        """Write the recording, if one is wanted."""
        if self._recording is not None:
            self._recording.write_text(_export(self._consoles[1]))

    def _line(self, mark: str, style: str, text: str) -> None:
        # Three columns, not two with an indent: pictures would lose the blanks before a coloured mark.
        grid = Table.grid(padding=(0, 1, 0, 0))
        for width in (2, 1, None):
            grid.add_column(width=width)
        grid.add_row("", Text(mark, style), Text.from_markup(text))
        self._print(grid)

    def _print(self, what: RenderableType) -> None:
        for console in self._consoles:
            console.print(what)


class Bar:
    """A share of something, and a text."""

    def __init__(self, full: str, empty: str) -> None:
        self.live: Live | None = None
        self._full = full
        self._empty = empty

    def show(self, label: str, share: float, text: str) -> None:
        """Move the bar; ``share`` is clipped to [0, 1]."""
        if self.live is None:
            return
        share = min(1.0, max(0.0, share))
        cells = round(share * BAR_CELLS)
        style = "green" if share > SCARCE else "yellow" if share > 0 else "red"
        line = Text.assemble("     ", (label, "bright_black"), " ", (self._full * cells, style),
                             (self._empty * (BAR_CELLS - cells), "bright_black"), " ", text)  # fmt: skip
        self.live.update(line, refresh=True)


def _export(console: Console) -> str:
    """Draw what was printed. The picture loads no font from elsewhere: pages that embed it forbid that."""
    style = re.sub(r"\n *@font-face \{\{.*?\n *\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    fonts = "'DejaVu Sans Mono', 'Cascadia Mono', Menlo, Consolas, monospace"
    style = style.replace("Fira Code, monospace", fonts).replace("font-family: arial", "font-family: sans-serif")
    return console.export_svg(title="leaderlease demo", theme=THEME, code_format=style, unique_id="leaderlease-demo")
