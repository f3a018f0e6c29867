"""The operator's metrics; a registry of its own, as every process of ours has."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import leaderlease


class Metrics:
    """Counters of one operator."""

    def __init__(self) -> None:
        # Otherwise each series has a second one, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "leaderlease_reconcile",
            "Looks at an object, by kind and result.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "leaderlease_reconcile_duration_seconds",
            "Time of one look, writes included.",
            ["kind"],
            buckets=[0.001 * 2**n for n in range(14)],
            registry=self.registry,
        )
        self.actions = Counter(
            "leaderlease_reconcile_actions", "What was done, by kind of action.", ["action"], registry=self.registry
        )
        self.requests = Counter(
            "leaderlease_api_requests", "Requests to the API server.", ["verb", "kind", "code"], registry=self.registry
        )
        self.injections = Counter(
            "leaderlease_injections", "Pods that the webhook was asked about, by result.", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self.watched = Counter(
            "leaderlease_reconcile_watch_events", "Events that watches delivered.", ["kind"], registry=self.registry
        )

    def gauges(self, read: Callable[[], dict[str, tuple[str, float]]]) -> None:
        """Add gauges that are read when they are scraped: name -> (help, value)."""
        self.registry.register(_Gauges(read))


class _Gauges(Collector):
    def __init__(self, read: Callable[[], dict[str, tuple[str, float]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for name, (text, value) in self._read().items():
            yield GaugeMetricFamily(name, text, value=value)
        info = GaugeMetricFamily("leaderlease_build_info", "Version of the software.", labels=["version"])
        info.add_metric([leaderlease.__version__], 1)
        yield info
