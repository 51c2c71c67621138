"""The access log (one JSON line per request) and the Prometheus metrics of the gateway."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, BinaryIO

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from tfs_deploy.gateway.processors.pool import ProcessorPool
from tfs_deploy.gateway.web.endpoint import Endpoint
from tfs_deploy.gateway.web.message import Request, RequestBudget

logger = logging.getLogger(__name__)

_MAX_WAITING_LINES = 50_000
_PAUSE_SECONDS = 0.1
_MAX_PATH = 256
METRICS_CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "tfs_deploy_gateway_"
# From 1 ms for a fast model to 30 s, above the default timeout of 10 s.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# A metric that is read at scrape time: name, help, and a function that returns labels and value of each series.
CallbackMetric = tuple[str, str, Callable[[], Iterable[tuple[dict[str, str], float]]]]
_Rows = Iterable[tuple[dict[str, str], float]]


class AccessLog:
    """Writes JSON lines to `stream` in a thread, so that a stalled reader delays no reply.

    Lines beyond `_MAX_WAITING_LINES` are dropped and counted in `dropped`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped = 0
        self._stream = stream
        # The event loop appends and the thread pops; a deque needs no lock for that.
        self._lines: deque[dict[str, Any]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def log(self, request: Request, status: int, size: int, seconds: float, at: float) -> None:
        """Queue one line about `request`; `seconds` is its duration, `at` the end in seconds since 1970.

        The query and all headers are left out, because they may hold keys.
        """
        line = {
            "time": at,
            "request_id": request.id,
            "method": request.method[:16],
            "path": request.path[:_MAX_PATH],
            "status": status,
            "bytes": size,
            "ms": round(seconds * 1000, 3),
            "remote": request.remote,
        }
        if request.client:
            line["client"] = request.client
        line |= request.log_fields
        if request.stages:
            line["stages_ms"] = {stage: round(taken * 1000, 3) for stage, taken in request.stages.items()}
        if len(self._lines) < _MAX_WAITING_LINES:
            self._lines.append(line)
        else:
            self.dropped += 1

    def close(self, seconds: float) -> None:
        """Write the queued lines, within `seconds`."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        # Polled, not woken by every line: each wake-up would take the interpreter from the event loop.
        while not self._stop.wait(_PAUSE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._stream.write(b"".join(map(_encoded, lines)))
            self._stream.flush()
        except (OSError, ValueError) as error:
            logger.warning("The access log cannot be written: %s", error)


def _encoded(line: dict[str, Any]) -> bytes:
    at = datetime.fromtimestamp(line["time"], timezone.utc)
    text = {**line, "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    return msgspec.json.encode(text) + b"\n"


@dataclass(slots=True)
class _Series:
    """The child metrics of all requests of one model, version, label and status."""

    model: str
    version: str
    requests: Counter
    seconds: Histogram
    stages: dict[str, Histogram] = field(default_factory=dict)


class Metrics:
    """All metrics of one gateway; every method is called on the event loop."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the *_created series would double the output
        self.registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests",
            "Requests by status; model and version are empty where a request was refused before they were known.",
            ("model", "version", "label", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            PREFIX + "request_seconds",
            "Seconds from the headers of a request to its reply.",
            ("model", "version"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            PREFIX + "stage_seconds",
            "Seconds of a request by stage.",
            ("model", "version", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._series: dict[tuple[str, str, str, str], _Series] = {}
        self._events: dict[str, Counter] = {}
        self._values: dict[str, Histogram] = {}

    def record_request(self, request: Request, status: int, seconds: float) -> None:
        """Count one request."""
        log_fields = request.log_fields
        model, version = str(log_fields.get("model", "")), str(log_fields.get("version", ""))
        series = self._series_of((model, version, str(log_fields.get("label", "")), str(int(status))))
        series.requests.inc()
        if model:
            series.seconds.observe(seconds)
            for stage, taken in request.stages.items():
                self._stage(series, stage).observe(taken)

    def _series_of(self, key: tuple[str, str, str, str]) -> _Series:
        """Return the child metrics of `key`, cached because a lookup by labels takes longer than an increment."""
        series = self._series.get(key)
        if series is None:
            model, version, _, _ = key
            series = _Series(model, version, self._requests.labels(*key), self._seconds.labels(model, version))
            self._series[key] = series
        return series

    def _stage(self, series: _Series, stage: str) -> Histogram:
        if stage not in series.stages:
            series.stages[stage] = self._stages.labels(series.model, series.version, stage)
        return series.stages[stage]

    def meter(self, model: str) -> ModelMeter:
        """Return the meter that adds the label `model`."""
        return ModelMeter(self, model)

    def add(self, gauges: Iterable[CallbackMetric], counters: Iterable[CallbackMetric] = ()) -> None:
        """Export these metrics, read at scrape time."""
        self.registry.register(_CallbackCollector(tuple(gauges), tuple(counters)))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def count(self, event: str, labels: dict[str, str]) -> None:
        """Increment the counter of `event`, created at its first use."""
        if event not in self._events:
            name = f"{PREFIX}{event}"
            self._events[event] = Counter(name, f"Number of events: {event}.", tuple(labels), registry=self.registry)
        self._events[event].labels(**labels).inc()

    def observe(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Add `value` to the histogram `name`, created at its first use."""
        if name not in self._values:
            buckets = _SECONDS if name.endswith("_seconds") else _COUNTS
            self._values[name] = Histogram(
                f"{PREFIX}{name}", f"Distribution of {name}.", tuple(labels), buckets=buckets, registry=self.registry
            )
        self._values[name].labels(**labels).observe(value)


class ModelMeter:
    """A `Meter` that adds the model's name as a label."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def count(self, event: str, **labels: str) -> None:
        """Count one `event`."""
        self._metrics.count(event, {"model": self._model, **labels})

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one `value`."""
        self._metrics.observe(name, value, {"model": self._model, **labels})


class _CallbackCollector:
    """A Prometheus collector that reads its metrics at scrape time."""

    def __init__(self, gauges: tuple[CallbackMetric, ...], counters: tuple[CallbackMetric, ...]) -> None:
        self._gauges = gauges
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        for name, description, read in self._gauges:
            yield _family(GaugeMetricFamily, name, description, read)
        for name, description, read in self._counters:
            yield _family(CounterMetricFamily, name, description, read)


def _family(kind: Any, name: str, description: str, read: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> Any:
    rows = list(read())
    labels = tuple(rows[0][0]) if rows else ()
    family = kind(PREFIX + name, description, labels=labels)
    for row, value in rows:
        family.add_metric([row[label] for label in labels], value)
    return family


def register_gauges(
    metrics: Metrics,
    models: Sequence[Endpoint],
    *,
    budget: RequestBudget,
    connections: Callable[[], int],
    pool: ProcessorPool | None,
    log: AccessLog,
) -> None:
    """Export the state of these parts of a gateway through `metrics`."""

    def per_model(value: Callable[[Endpoint], float]) -> Callable[[], _Rows]:
        return lambda: [({"model": endpoint.name}, value(endpoint)) for endpoint in models]

    def unlabelled(value: Callable[[], float]) -> Callable[[], _Rows]:
        return lambda: [({}, value())]

    gauges: list[CallbackMetric] = [
        ("requests_held", "Requests in flight.", per_model(lambda endpoint: budget.held(endpoint.name))),
        (
            "requests_waiting",
            "Requests that wait for a concurrency slot.",
            per_model(lambda s: s.upstream.admission.waiting),
        ),
        (
            "replica_asked",
            "1 for each model server that gets requests at the moment, 0 for an ejected one.",
            lambda: _replicas(models),
        ),
        ("live_version", "The version that the model's label points to.", lambda: _versions(models)),
        ("body_bytes_held", "Bytes of request bodies in memory.", unlabelled(lambda: budget.held_bytes)),
        ("connections", "Connections of clients, idle ones included.", unlabelled(connections)),
    ]
    if pool is not None:
        gauges.append(
            ("pool_jobs_waiting", "Jobs that wait for a process of the pool.", unlabelled(lambda: pool.waiting))
        )
    counters: list[CallbackMetric] = [
        ("access_log_dropped", "Access log lines that were dropped.", unlabelled(lambda: log.dropped))
    ]
    if any(endpoint.capture is not None for endpoint in models):
        counters += _capture(models)
    metrics.add(gauges, counters)


def _replicas(models: Sequence[Endpoint]) -> _Rows:
    return [
        ({"model": endpoint.name, "replica": replica}, float(healthy))
        for endpoint in models
        for replica, healthy in sorted(endpoint.upstream.replicas().items())
    ]


def _versions(models: Sequence[Endpoint]) -> _Rows:
    versions = ((endpoint, endpoint.upstream.live_version()) for endpoint in models)
    return [
        ({"model": endpoint.name, "label": endpoint.config.label}, float(version))
        for endpoint, version in versions
        if version
    ]


def _capture(models: Sequence[Endpoint]) -> list[CallbackMetric]:
    captures = [(endpoint.name, endpoint.capture.counts) for endpoint in models if endpoint.capture is not None]
    return [
        (
            "captured",
            "Requests written to capture files.",
            lambda: [({"model": name}, counts.written) for name, counts in captures],
        ),
        (
            "captured_bytes",
            "Bytes written to capture files.",
            lambda: [({"model": name}, counts.written_bytes) for name, counts in captures],
        ),
        (
            "capture_dropped",
            "Sampled requests that were not written, by reason.",
            lambda: [
                ({"model": name, "reason": reason}, float(count))
                for name, counts in captures
                for reason, count in sorted(counts.dropped.items())
            ],
        ),
        (
            "capture_copied",
            "Capture files uploaded to the store.",
            lambda: [({"model": name}, counts.copied) for name, counts in captures],
        ),
        (
            "capture_copies_failed",
            "Capture files that could not be uploaded.",
            lambda: [({"model": name}, counts.copies_failed) for name, counts in captures],
        ),
    ]
