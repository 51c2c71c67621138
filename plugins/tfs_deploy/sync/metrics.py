"""An agent's numbers in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.errors import MissingExtra
from tfs_deploy.sync.figures import Figures, Numbers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """Renders `figures` at each scrape; raises MissingExtra at once where prometheus_client is not installed."""

    def __init__(self, figures: Figures) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise MissingExtra("prometheus-client", "sync") from error
        self._figures = figures
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the numbers as they are now."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Any]:
        """Yield the metric families, as the registry asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        now = self._figures.numbers()
        yield CounterMetricFamily("tfs_deploy_sync_bytes", "Bytes brought to this disk.", value=now.received_bytes)
        yield SummaryMetricFamily(
            "tfs_deploy_sync_bring_seconds",
            "Time from the start of a transfer until the version is visible.",
            count_value=now.brought_versions,
            sum_value=now.bringing_seconds,
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


def _failures(family: Any, now: Numbers) -> Any:
    failures = family("tfs_deploy_sync_failures", "Attempts that failed.", labels=["kind"])
    for kind in AgentErrorKind:
        failures.add_metric([kind.value], now.failures.get(kind, 0))
    return failures
