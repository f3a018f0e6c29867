"""The operator's metrics; a registry of its own, as every process of ours has."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import leaderlease

ReadCertificate = Callable[[], tuple[Mapping[str, float], bool]]
"""Returns when the certificates in use end, in Unix seconds by kind, and whether their files cannot be used now."""


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
        self.gaps = Counter(
            "leaderlease_reconcile_gaps",
            "Times that watches may have missed something, so that everything was listed again.",
            registry=self.registry,
        )
        self.watched = Counter(
            "leaderlease_reconcile_watch_events", "Events that watches delivered.", ["kind"], registry=self.registry
        )

    def gauges(self, read: Callable[[], dict[str, tuple[str, float]]]) -> None:
        """Add gauges that are read when they are scraped: name -> (help, value)."""
        self.registry.register(_Gauges(read))

    def certificates(self, found: Sequence[ReadCertificate]) -> None:
        """Add gauges of the certificates that this process uses; the list may grow later."""
        self.registry.register(_Certificates(found))


class _Certificates(Collector):
    def __init__(self, found: Sequence[ReadCertificate]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        read = [one() for one in self._found]
        text = "When a certificate in use ends, in Unix seconds."
        ends = GaugeMetricFamily("leaderlease_certificate_expiry_timestamp_seconds", text, labels=["kind"])
        for kind, end_s in (item for ends_s, _ in read for item in ends_s.items()):
            ends.add_metric([kind], end_s)
        yield ends
        text = "Whether the certificate files cannot be used as they are now; older ones are in use."
        is_refused = any(is_refused for _, is_refused in read)
        yield GaugeMetricFamily("leaderlease_certificate_refused", text, value=float(is_refused))


class _Gauges(Collector):
    def __init__(self, read: Callable[[], dict[str, tuple[str, float]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for name, (text, value) in self._read().items():
            yield GaugeMetricFamily(name, text, value=value)
        info = GaugeMetricFamily("leaderlease_build_info", "Version of the software.", labels=["version"])
        info.add_metric([leaderlease.__version__], 1)
        yield info
