"""A picture of a run as plain SVG: who believed what when, under which faults.

Above are the faults, a row for each thing that broke; below a row for each candidate, in it a bar while it believed,
coloured by term. Two bars of one lease at the same instant are what must never be; the picture marks them by itself.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from support.checkers.belief import Interval
from support.checkers.history import Event, Kind, by_lease

LABELS = 148
"""Widths and heights are in pixels, as is a second; the picture is at least ``WIDTH_MIN`` wide."""
SECOND, WIDTH_MIN, WIDTH_MAX = 42.0, 1040.0, 8000.0
ROW, BAND_ROW, GAP, MARGIN, HEAD, AXIS = 19.0, 17.0, 10.0, 16.0, 66.0, 34.0
LETTER = 5.7
"""About the width of a letter of a bar's text."""
TERMS = 6
TONES = {
    "down": ("killed", "restart", "fails", "full"),
    "still": ("stopped", "stutters", "stalled", "slow disk"),
    "cut": ("isolated", "mute", "cut", "link"),
    "clock": ("clock",),
}
"""Class of a fault's bar, by a word of its name."""
STYLE = """
svg{--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d8dee4;--zebra:#f6f8fa;--text:#fff;
font:11px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){svg{--paper:#0d1117;--ink:#e6edf3;--dim:#9198a1;--line:#30363d;--zebra:#151b23}}
text{fill:var(--ink)}.dim{fill:var(--dim)}.title{font-size:15px;font-weight:600}.lease{font-weight:600}
.paper{fill:var(--paper)}.zebra{fill:var(--zebra)}.line{stroke:var(--line)}.in{fill:var(--text);font-size:10px}
.right{text-anchor:end}.mid{text-anchor:middle}
.t0{fill:#1f6feb}.t1{fill:#1a7f37}.t2{fill:#8250df}.t3{fill:#0e7490}.t4{fill:#bf3989}.t5{fill:#4f6b1f}
.down{fill:#b62324}.still{fill:#9a6700}.cut{fill:#57606a}.clock{fill:#6639ba}
.out{opacity:.28}.both{fill:none;stroke:#ff2d2d;stroke-width:3}
"""


@dataclass
class Span:
    """A fault: what it touched, ``node 0``, ``machine 1``, ``clock 2`` or ``holder ...``, and how long it lasted."""

    name: str
    touches: Sequence[str]
    begin_ms: float
    end_ms: float = float("inf")

    @property
    def tone(self) -> str:
        """Class of its bar."""
        return next((tone for tone, words in TONES.items() if any(word in self.name for word in words)), "cut")


@dataclass
class Track:
    """A candidate: which lease it wants, how its row is called, its nonces, and what a fault of it touches."""

    lease: str
    label: str
    nonces: set[str]
    touched: str = ""


@dataclass
class Picture:
    """What is to be drawn, from ``begin_ms`` to ``end_ms``.

    Attributes:
        notes: Of a lease, beside its name.
    """

    title: str
    history: Sequence[Event]
    tracks: Sequence[Track]
    spans: Sequence[Span]
    begin_ms: float
    end_ms: float
    notes: dict[str, str] = field(default_factory=dict)
    _parts: list[str] = field(default_factory=list, init=False)
    _y: float = field(default=HEAD, init=False)

    def draw(self) -> str:
        """Return the SVG."""
        seconds = (self.end_ms - self.begin_ms) / 1000
        self._scale = min(max(SECOND * seconds, WIDTH_MIN - LABELS - 2 * MARGIN), WIDTH_MAX) / seconds
        self._left = MARGIN + LABELS
        self._right = self._left + self._scale * seconds
        self._faults()
        self._beliefs()
        self._axis(seconds)
        width, height = round(self._right + MARGIN), round(self._y + MARGIN)
        head = [
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}" rx="6"/>',
            f'<text class="title" x="{MARGIN}" y="28">{escape(self.title)}</text>',
            *self._legend(),
        ]
        return "\n".join([*head, *self._parts, "</svg>", ""])

    def excerpt(self, seconds: float) -> "Picture":
        """Return the part of so many seconds in which most began."""
        grants = [event.at_ms for event in self.history if event.kind is Kind.BELIEVE]
        began = sorted([*grants, *(2 * [span.begin_ms for span in self.spans])])
        last_ms = max(self.begin_ms, self.end_ms - 1000 * seconds)
        starts = [at_ms - 500 for at_ms in began if self.begin_ms <= at_ms - 500 <= last_ms] or [self.begin_ms]

        def count(start_ms: float) -> int:
            return bisect(began, start_ms + 1000 * seconds) - bisect(began, start_ms)

        start_ms = max(starts, key=count)
        return replace(self, begin_ms=start_ms, end_ms=start_ms + 1000 * seconds)

    # --- rows ------------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        seen = [span for span in self.spans if span.begin_ms < self.end_ms and span.end_ms > self.begin_ms]
        names = {name for span in seen for name in span.touches if not name.startswith("holder")}
        order = {"node": 0, "machine": 1, "clock": 2}
        for i, name in enumerate(sorted(names, key=lambda name: (order[name.split()[0]], name))):
            self._row(name.replace("machine", "link of"), BAND_ROW, i)
            for span in seen:
                if name in span.touches:
                    self._bar(span.begin_ms, span.end_ms, BAND_ROW, span.tone, span.name, span.name)
            self._y += BAND_ROW
        self._y += GAP

    def _beliefs(self) -> None:
        held = beliefs(self.history)
        for lease in dict.fromkeys(track.lease for track in self.tracks):
            self._text(MARGIN, self._y + 13, lease, "lease")
            self._text(MARGIN + 7 * len(lease) + 10, self._y + 13, self.notes.get(lease, ""), "dim")
            self._y += ROW
            top = self._y
            for i, track in enumerate(track for track in self.tracks if track.lease == lease):
                self._track(track, [one for one in held if one.lease == lease and one.nonce in track.nonces], i)
            for begin_ms, end_ms in overlaps(one for one in held if one.lease == lease):
                x, width = self._x(begin_ms), max(3.0, self._x(end_ms) - self._x(begin_ms))
                self._rect("both", x, top, width, self._y - top, "two believe")
            self._y += GAP

    def _track(self, track: Track, held: Sequence[Interval], i: int) -> None:
        self._row(track.label, ROW, i)
        for span in self.spans:
            if track.touched in span.touches:
                self._bar(span.begin_ms, span.end_ms, ROW, f"{span.tone} out", "", f"{track.label}: {span.name}", 0)
        for one in held:
            end = f"{one.term} at {(one.since_ms - self.begin_ms) / 1000:.3f} s"
            tip = f"{track.label} believes, term {end}, for {(one.until_ms - one.since_ms) / 1000:.3f} s"
            self._bar(one.since_ms, one.until_ms, ROW, f"t{one.term % TERMS}", str(one.term), tip)
        self._y += ROW

    def _row(self, label: str, height: float, i: int) -> None:
        if i % 2 == 0:
            self._rect("zebra", MARGIN, self._y, self._right - MARGIN, height)
        self._text(self._left - 8, self._y + height - 5.5, label, "dim right")

    def _axis(self, seconds: float) -> None:
        step = next(step for step in (1, 2, 5, 10, 30, 60, 300) if step * self._scale >= 40)
        lines = []
        for second in range(0, int(seconds) + 1, step):
            x = self._left + second * self._scale
            lines.append(f'<path class="line" d="M{x:.1f} {HEAD}V{self._y:.0f}"/>')
            self._text(x, self._y + 15, f"{second} s", "dim mid")
        # Behind the bars, before the rows' shades would hide them.
        shades = sum(part.startswith('<rect class="zebra"') for part in self._parts)
        self._parts.sort(key=lambda part: not part.startswith('<rect class="zebra"'))
        self._parts[shades:shades] = lines
        self._y += AXIS - MARGIN

    def _legend(self) -> list[str]:
        texts = {
            "down": "down or disk failed",
            "still": "stopped or disk slow",
            "cut": "link bad",
            "clock": "clock wrong",
        }
        parts, x = [], MARGIN
        for tone, text in texts.items():
            parts.append(f'<rect class="{tone}" x="{x}" y="41" width="12" height="12" rx="2"/>')
            parts.append(f'<text class="dim" x="{x + 17}" y="51">{text}</text>')
            x += 17 + LETTER * len(text) + 22
        for term in range(TERMS):
            parts.append(f'<rect class="t{term}" x="{x}" y="41" width="12" height="12"/>')
            x += 12
        parts.append(f'<text class="dim" x="{x + 5}" y="51">believes; coloured by term</text>')
        return parts

    # --- what rows consist of --------------------------------------------------------------------------------

    def _x(self, at_ms: float) -> float:
        return self._left + (min(max(at_ms, self.begin_ms), self.end_ms) - self.begin_ms) / 1000 * self._scale

    def _bar(
        self, begin_ms: float, end_ms: float, height: float, style: str, text: str, tip: str, inset: float = 2.0
    ) -> None:
        if begin_ms >= self.end_ms or end_ms <= self.begin_ms:
            return
        x, width = self._x(begin_ms), max(1.5, self._x(end_ms) - self._x(begin_ms) - 0.6)
        self._rect(style, x, self._y + inset, width, height - 2 * inset, tip)
        if text and len(text) * LETTER + 5 <= width:
            self._text(x + width / 2, self._y + height - 5, text, "in mid")

    def _rect(self, style: str, x: float, y: float, width: float, height: float, tip: str = "") -> None:
        where = f'x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}"'
        inner = f"><title>{escape(tip)}</title></rect>" if tip else "/>"
        self._parts.append(f'<rect class="{style}" {where}{inner}')

    def _text(self, x: float, y: float, text: str, style: str) -> None:
        if text:
            self._parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:g}">{escape(text)}</text>')


def beliefs(history: Iterable[Event]) -> list[Interval]:
    """Return who believed when, as ``belief_intervals``, but of a history that must not be, too."""
    intervals: list[Interval] = []
    for events in by_lease(history, Kind.BELIEVE, Kind.RENEWED, Kind.UNBELIEVE).values():
        latest: dict[str, Interval] = {}
        for event in events:
            mine = latest.get(event.nonce)
            if event.kind is Kind.UNBELIEVE:
                if mine is not None:
                    mine.until_ms, mine.is_over = min(mine.until_ms, event.at_ms), True
            elif mine is None or mine.is_over or event.at_ms >= mine.until_ms:
                mine = Interval(event.lease, event.nonce, event.term, event.at_ms, event.until_ms)
                latest[event.nonce] = mine
                intervals.append(mine)
            else:
                mine.until_ms = max(mine.until_ms, event.until_ms)
    return intervals


def overlaps(held: Iterable[Interval]) -> list[tuple[float, float]]:
    """Return when two nonces believe that they hold one lease."""
    found = []
    until_ms = float("-inf")
    for one in sorted(held, key=lambda one: one.since_ms):
        if one.since_ms < until_ms:
            found.append((one.since_ms, min(until_ms, one.until_ms)))
        until_ms = max(until_ms, one.until_ms)
    return found
