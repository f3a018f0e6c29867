"""What the code did in the ten stories is a behaviour of the model, step by step; a forged trace is none."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import tlc
from support.levels import require

HERE = Path(__file__).parent
TIMEOUT_S = 120


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exporter = _load(HERE / "exporter.py", "model_exporter")
STORIES = {
    file: _load(HERE.parent / "rules" / f"{file}.py", f"model_{file}")
    for file in ("test_lecture", "test_r1", "test_r2", "test_r5", "test_r7", "test_release")
}


def _cases() -> list[Any]:
    """Return the tests of those files that take no fixture, with the values of their parameters."""
    cases = []
    for file, module in STORIES.items():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_") or "world" not in inspect.getsource(function):
                continue
            names = list(inspect.signature(function).parameters)
            if not names:
                cases.append(pytest.param(file, function, {}, id=name))
            elif names == ["duration_ms"]:
                cases += [
                    pytest.param(file, function, {"duration_ms": value}, id=f"{name}-{value}")
                    for value in (None, 1_000)
                ]
    return cases


@pytest.fixture(autouse=True)
def _tools() -> None:
    require("model", not (lack := tlc.missing()), lack)


def _worlds(file: str, story: Callable[..., None], options: dict[str, Any], patch: pytest.MonkeyPatch) -> list[Any]:
    exporter.RecordingWorld.made = []
    patch.setattr(STORIES[file], "World", exporter.RecordingWorld, raising=False)
    story(**options)
    return [world for world in exporter.RecordingWorld.made if world.events]


def _is_allowed(world: Any, events: list[dict[str, Any]], work: Path) -> bool:
    work.mkdir(parents=True, exist_ok=True)
    data, configuration = exporter.write(world, events)
    (work / "TraceData.tla").write_text(data)
    result = tlc.run("Trace", configuration, work, timeout_s=TIMEOUT_S, workers=1)
    assert result.violated == "IsNotOver" or result.is_complete, result.output[-4_000:]
    return result.violated == "IsNotOver"


@pytest.mark.parametrize(("file", "story", "options"), _cases())
def test_what_the_code_did_is_a_behaviour_of_the_model(
    file: str, story: Callable[..., None], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each step of each acceptor, proposal, renewal and belief is one that the model allows."""
    worlds = _worlds(file, story, options, monkeypatch)
    assert worlds
    for number, world in enumerate(worlds):
        assert _is_allowed(world, world.events, tmp_path / str(number)), world.events


@pytest.mark.parametrize("forgery", ["a promise that nobody gave", "another value", "a promise goes back"])
def test_a_forged_trace_is_refused(forgery: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A check that accepts everything would prove nothing."""
    story = STORIES["test_lecture"].test_3_the_nodes_that_were_away_learn_that_it_is_alices
    (world,) = _worlds("test_lecture", story, {}, monkeypatch)
    events = [dict(event) for event in world.events]
    promises = [number for number, event in enumerate(events) if event["kind"] == "promise"]
    accepts = [number for number, event in enumerate(events) if event["kind"] == "accept"]
    if forgery == "a promise that nobody gave":
        del events[promises[0]]
    elif forgery == "another value":
        forged = events[accepts[-1]]
        forged["v"] = exporter.Value(forged["v"].term + 1, forged["v"].holder, forged["v"].duration_ms)
    else:
        events[promises[-1]]["prom"] = events[promises[0]]["prom"]
    assert not _is_allowed(world, events, tmp_path)
