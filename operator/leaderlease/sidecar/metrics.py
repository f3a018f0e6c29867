"""What Prometheus scrapes, written by hand: the library would be a fifth of this process's memory."""

import os
import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from leaderlease import __version__
from leaderlease.sidecar.health import Gate
from leaderlease.sidecar.view import View

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _labels(pairs: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in pairs.items()) + "}" if pairs else ""


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value:.17g}"


def render(
    views: Iterable[View], gate: Gate, *, is_connected: bool, responses: Mapping[int, int], streams: int
) -> bytes:
    """Write everything, as of now."""
    named = [(_names(view.name), view) for view in views]
    lines: list[str] = []

    def add(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        lines.extend(_family(f"leaderlease_{name}", kind, text, samples))

    add("is_leader", "gauge", "1 while this process leads.", ((n, float(v.is_leader())) for n, v in named))
    add("term", "gauge", "Term of the lease that is known here.", ((n, v.document().term) for n, v in named))
    text = "Seconds for which this process leads without another renewal."
    add("lease_remaining_seconds", "gauge", text, ((n, v.remaining_ms() / 1000) for n, v in named))
    text = "1 while what is known of the lease is fresh enough to be an answer."
    add("lease_fresh", "gauge", text, ((n, float(not v.is_stale())) for n, v in named))
    add("elected_total", "counter", "How often this process was elected.", ((n, v.elected) for n, v in named))
    text = "How often this process lost the lease without wanting to."
    add("lost_total", "counter", text, ((n, v.lost) for n, v in named))
    text = "Changes of the leader that this process saw."
    add("transitions_total", "counter", text, ((n, v.changes) for n, v in named))
    if gate.config is not None:
        text = "1 while the application is healthy, 0 while it is not or nothing is known yet."
        add("app_healthy", "gauge", text, [({}, float(bool(gate.is_healthy)))])
        text = "Health checks of the application."
        add("app_checks_total", "counter", text, (({"result": r}, n) for r, n in gate.checks.items()))
    add("connected", "gauge", "1 while there is a session with a node.", [({}, float(is_connected))])
    text = "Answers of the local API."
    codes = (({"code": str(code)}, count) for code, count in sorted(responses.items()))
    add("http_responses_total", "counter", text, codes)
    add("event_streams", "gauge", "Open streams of events.", [({}, streams)])
    info = {"version": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    add("build_info", "gauge", "The version of this program.", [(info, 1.0)])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    lines.extend(_family("process_cpu_seconds_total", "counter", "CPU time of this process.", [({}, cpu)]))
    text = "Resident memory of this process."
    lines.extend(_family("process_resident_memory_bytes", "gauge", text, [({}, resident_bytes())]))
    return ("\n".join(lines) + "\n").encode()


def _names(name: str) -> dict[str, str]:
    namespace, _, short = name.partition("/")
    return {"namespace": namespace, "lease": short}


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the platform does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
