"""What the end-to-end tests measured, as build/e2e.json and as lines of the run."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

REPORT = Path(__file__).parents[2] / "build" / "e2e.json"


class Report:
    """Collects figures, and writes them down after each scenario."""

    def __init__(self) -> None:
        self._figures: dict[str, object] = {}

    def add(self, name: str, **figures: object) -> None:
        """Take figures of one scenario, and print them."""
        self._figures[name] = figures
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(self._figures, indent=2) + "\n")
        print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))

    def add_trials(self, name: str, unit: str, values: Sequence[float], **figures: object) -> None:
        """Take what repeated trials measured."""
        ordered = sorted(values)
        self.add(
            name,
            unit=unit,
            trials=len(ordered),
            p50=round(statistics.median(ordered), 3),
            p90=round(ordered[math.ceil(0.9 * len(ordered)) - 1], 3),
            worst=round(ordered[-1], 3),
            values=[round(value, 3) for value in values],
            **figures,
        )
