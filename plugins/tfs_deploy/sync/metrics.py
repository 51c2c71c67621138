"""The numbers of one agent: counted by its loop and its downloads, rendered in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class MetricValues:
    """The numbers at one moment; times are seconds since the epoch, None for never."""

    received_bytes: int = 0
    downloaded_versions: int = 0
    download_seconds: float = 0.0
    held: Mapping[str, int] = field(default_factory=dict)
    needed: int = 0
    failures: Mapping[AgentErrorKind, int] = field(default_factory=dict)
    last_pass: float | None = None
    last_success: float | None = None
    ready: bool = False


class Metrics:
    """Counts; used by many threads."""

    def __init__(self) -> None:
        self._values = MetricValues()
        self._lock = threading.Lock()

    def add_bytes(self, count: int) -> None:
        """Add bytes that a download has written to the disk or kept there."""
        with self._lock:
            self._values = replace(self._values, received_bytes=self._values.received_bytes + count)

    def add_version(self, seconds: float) -> None:
        """Add a downloaded version."""
        with self._lock:
            now = self._values
            self._values = replace(
                now, downloaded_versions=now.downloaded_versions + 1, download_seconds=now.download_seconds + seconds
            )

    def record_pass(
        self,
        *,
        at: float,
        success: bool,
        held: Mapping[str, int],
        needed: int,
        ready: bool,
        failures: Counter[AgentErrorKind],
    ) -> None:
        """Record the end of a pass of the loop; `success`: the store answered."""
        with self._lock:
            self._values = replace(
                self._values,
                held=dict(held),
                needed=needed,
                ready=ready,
                failures=dict(failures),
                last_pass=at,
                last_success=at if success else self._values.last_success,
            )

    def values(self) -> MetricValues:
        """Return the numbers of this moment."""
        with self._lock:
            return self._values


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PrometheusText:
    """Renders `metrics` at each scrape; raises MissingExtra at once where prometheus_client is not installed."""

    def __init__(self, metrics: Metrics) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise MissingExtra("prometheus-client", "sync") from error
        self._metrics = metrics
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the numbers as they are now."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Any]:
        """Yield the metric families, as the registry asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        now = self._metrics.values()
        yield CounterMetricFamily("tfs_deploy_sync_bytes", "Bytes brought to this disk.", value=now.received_bytes)
        yield SummaryMetricFamily(
            "tfs_deploy_sync_bring_seconds",
            "Time from the start of a transfer until the version is visible.",
            count_value=now.downloaded_versions,
            sum_value=now.download_seconds,
        )
        held = GaugeMetricFamily("tfs_deploy_sync_versions_held", "Complete versions on this disk.", labels=["model"])
        for model, count in sorted(now.held.items()):
            held.add_metric([model], count)
        yield held
        yield GaugeMetricFamily("tfs_deploy_sync_versions_needed", "Versions that the group needs.", value=now.needed)
        yield GaugeMetricFamily("tfs_deploy_sync_ready", "1 if all that is needed is here.", value=float(now.ready))
        yield GaugeMetricFamily(
            "tfs_deploy_sync_last_success_timestamp_seconds",
            "When the store last said what is needed; 0: never.",
            value=now.last_success or 0.0,
        )
        yield _failures(CounterMetricFamily, now)


def _failures(family: Any, now: MetricValues) -> Any:
    failures = family("tfs_deploy_sync_failures", "Attempts that failed.", labels=["kind"])
    for kind in AgentErrorKind:
        failures.add_metric([kind.value], now.failures.get(kind, 0))
    return failures
