"""The picture of a run shows what happened, and cries out when two believe."""

from xml.etree import ElementTree

from support.checkers.history import Event, Kind
from support.plot import Picture, Span, Track, beliefs, overlaps

LEASE = "shop/billing"


def event(kind: Kind, at_ms: float, nonce: str, term: int, until_ms: float = 0.0) -> Event:
    return Event(at_ms, kind, LEASE, nonce, term, until_ms)


GOOD = [
    event(Kind.BELIEVE, 1000, "a", 1, 2000),
    event(Kind.RENEWED, 1500, "a", 1, 2500),
    event(Kind.UNBELIEVE, 2200, "a", 1),
    event(Kind.BELIEVE, 2200, "b", 2, 3200),
]
BAD = [*GOOD[:2], event(Kind.BELIEVE, 2100, "b", 2, 3100)]


def draw(history: list[Event]) -> str:
    tracks = [Track(LEASE, "alice", {"a"}, "holder a"), Track(LEASE, "bob", {"b"}, "holder b")]
    spans = [
        Span("node killed", ["node 0"], 1200, 1700),
        Span("pair cut", ["machine 0", "machine 2"], 500, 2600),
        Span("holder stopped", ["holder b"], 2300, 2400),
        Span("disk full", ["node 1"], 9000, 9500),
    ]
    return Picture("a < b", history, tracks, spans, 0, 4000, {LEASE: "lease of 1s"}).draw()


def parts(svg: str, style: str) -> list[ElementTree.Element]:
    """Return the elements of one class."""
    return [one for one in ElementTree.fromstring(svg).iter() if style in one.get("class", "").split()]


def test_a_bar_for_each_belief_and_each_fault() -> None:
    """It is XML; what lies outside of the picture is left out, and a fault of two links is in two rows."""
    svg = draw(GOOD)
    tips = [one.text for one in ElementTree.fromstring(svg).iter() if one.tag.endswith("title")]
    assert tips.count("alice believes, term 1 at 1.000 s, for 1.200 s") == 1
    assert tips.count("bob believes, term 2 at 2.200 s, for 1.000 s") == 1
    assert tips.count("node killed") == 1
    assert tips.count("pair cut") == 2
    assert tips.count("bob: holder stopped") == 1
    assert "disk full" not in tips
    assert "node 1" not in [one.text for one in parts(svg, "right")]


def test_two_that_believe_are_marked() -> None:
    """A good history has no mark, a bad one has one where they overlap."""
    assert not parts(draw(GOOD), "both")
    assert len(parts(draw(BAD), "both")) == 1
    assert overlaps(beliefs(BAD)) == [(2100, 2500)]


def test_a_nonce_that_believes_again_is_drawn_twice() -> None:
    """The checkers refuse such a history; the picture shows it."""
    again = event(Kind.RENEWED, 3000, "a", 1, 3400)
    assert [(one.since_ms, one.until_ms) for one in beliefs([*GOOD[:3], again])] == [(1000, 2200), (3000, 3400)]


def test_an_excerpt_is_the_busiest_part() -> None:
    """It has as many seconds as asked for, and the same rows."""
    whole = Picture("all", GOOD, [Track(LEASE, "alice", {"a"})], [Span("node killed", ["node 0"], 2100, 2900)], 0, 9000)
    part = whole.excerpt(1.0)
    assert (part.begin_ms, part.end_ms) == (1600, 2600)
    assert len(parts(part.draw(), "down")) == 2  # one of them in the legend
