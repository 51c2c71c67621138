"""What Prometheus reads: requests, seconds by stage, by model and version, and what the rooms below report."""

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


class AccessLog:
    """Writes to `stream`; lines for which there is no room are counted in `dropped`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped = 0
        self._stream = stream
        # Appended to by the event loop, emptied by the thread; neither needs a lock for that.
        self._lines: deque[dict[str, Any]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def log(self, request: Request, status: int, size: int, seconds: float, at: float) -> None:
        """Write one line about `request`, which was answered after `seconds`, at `at` seconds since 1970.

        The query is left out, and no header is written: keys may be in them.
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
        """Write what waits, within `seconds`."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        # Not woken by every line: each time would take the interpreter from the event loop.
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


METRICS_CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "tfs_deploy_gateway_"

# A millisecond on the way to a fast model, the 10 s of the default deadline, and some above.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Numbers that are read when somebody asks: name, help, and for each set of labels the value.
CallbackMetric = tuple[str, str, Callable[[], Iterable[tuple[dict[str, str], float]]]]


@dataclass(slots=True)
class _Series:
    """The numbers of all requests of one model, version, label and status."""

    model: str
    version: str
    requests: Counter
    seconds: Histogram
    stages: dict[str, Histogram] = field(default_factory=dict)


class Metrics:
    """All numbers of one gateway; every method is called on the event loop."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a line more for each number, which nobody here reads
        self.registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests",
            "Requests by outcome; model and version are empty where the request got that far only.",
            ("model", "version", "label", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            PREFIX + "request_seconds",
            "Seconds from the headers of a request to its answer.",
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
        series = self._series_of((model, version, str(log_fields.get("label", "")), str(status)))
        series.requests.inc()
        if model:
            series.seconds.observe(seconds)
            for stage, taken in request.stages.items():
                self._stage(series, stage).observe(taken)

    def _series_of(self, key: tuple[str, str, str, str]) -> _Series:
        """Return the numbers of one kind of request; looking each up by its labels would take longer than counting."""
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
        """Return where the rooms below report about `model`."""
        return ModelMeter(self, model)

    def add(self, gauges: Iterable[CallbackMetric], counters: Iterable[CallbackMetric] = ()) -> None:
        """Tell these numbers too."""
        self.registry.register(_CallbackCollector(tuple(gauges), tuple(counters)))

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)

    def count(self, event: str, labels: dict[str, str]) -> None:
        """Count an `event` that a room below reports."""
        if event not in self._events:
            name = f"{PREFIX}{event}"
            self._events[event] = Counter(name, f"How often: {event}.", tuple(labels), registry=self.registry)
        self._events[event].labels(**labels).inc()

    def observe(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Note a value that a room below reports."""
        if name not in self._values:
            buckets = _SECONDS if name.endswith("_seconds") else _COUNTS
            self._values[name] = Histogram(
                f"{PREFIX}{name}", f"Distribution of {name}.", tuple(labels), buckets=buckets, registry=self.registry
            )
        self._values[name].labels(**labels).observe(value)


class ModelMeter:
    """A `Meter` that adds the model's name."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def count(self, event: str, **labels: str) -> None:
        """Count one `event`."""
        self._metrics.count(event, {"model": self._model, **labels})

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Note one `value`."""
        self._metrics.observe(name, value, {"model": self._model, **labels})


class _CallbackCollector:
    """A collector that asks for the numbers when they are wanted."""

    def __init__(self, gauges: tuple[CallbackMetric, ...], counters: tuple[CallbackMetric, ...]) -> None:
        self._gauges = gauges
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        for name, text, read in self._gauges:
            yield _family(GaugeMetricFamily, name, text, read)
        for name, text, read in self._counters:
            yield _family(CounterMetricFamily, name, text, read)


def _family(kind: Any, name: str, text: str, read: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> Any:
    rows = list(read())
    labels = tuple(rows[0][0]) if rows else ()
    family = kind(PREFIX + name, text, labels=labels)
    for row, value in rows:
        family.add_metric([row[label] for label in labels], value)
    return family


_Rows = Iterable[tuple[dict[str, str], float]]


def register_gauges(
    metrics: Metrics,
    models: Sequence[Endpoint],
    *,
    budget: RequestBudget,
    connections: Callable[[], int],
    pool: ProcessorPool | None,
    log: AccessLog,
) -> None:
    """Have `metrics` tell the numbers of these parts."""

    def per_model(value: Callable[[Endpoint], float]) -> Callable[[], _Rows]:
        return lambda: [({"model": endpoint.name}, value(endpoint)) for endpoint in models]

    def one(value: Callable[[], float]) -> Callable[[], _Rows]:
        return lambda: [({}, value())]

    gauges: list[CallbackMetric] = [
        ("requests_held", "Requests under way.", per_model(lambda endpoint: budget.held(endpoint.name))),
        ("requests_waiting", "Requests that wait for a turn.", per_model(lambda s: s.upstream.admission.waiting)),
        ("replica_asked", "1 for each model server that is asked at the moment.", lambda: _replicas(models)),
        ("live_version", "The version that the model's label means.", lambda: _versions(models)),
        ("body_bytes_held", "Bytes of requests in memory.", one(lambda: budget.held_bytes)),
        ("connections", "Connections of clients, idle ones included.", one(connections)),
    ]
    if pool is not None:
        gauges.append(("pool_jobs_waiting", "Jobs that wait for a process.", one(lambda: pool.waiting)))
    counters: list[CallbackMetric] = [("access_log_dropped", "Lines that were not logged.", one(lambda: log.dropped))]
    if any(endpoint.capture is not None for endpoint in models):
        counters += _capture(models)
    metrics.add(gauges, counters)


def _replicas(models: Sequence[Endpoint]) -> _Rows:
    return [
        ({"model": endpoint.name, "replica": replica}, float(asked))
        for endpoint in models
        for replica, asked in sorted(endpoint.upstream.replicas().items())
    ]


def _versions(models: Sequence[Endpoint]) -> _Rows:
    found = ((endpoint, endpoint.upstream.live_version()) for endpoint in models)
    return [
        ({"model": endpoint.name, "label": endpoint.config.label}, float(known)) for endpoint, known in found if known
    ]


def _capture(models: Sequence[Endpoint]) -> list[CallbackMetric]:
    captures = [(endpoint.name, endpoint.capture.counts) for endpoint in models if endpoint.capture is not None]
    return [
        ("captured", "Requests written.", lambda: [({"model": name}, one.written) for name, one in captures]),
        ("captured_bytes", "Bytes written.", lambda: [({"model": name}, one.written_bytes) for name, one in captures]),
        (
            "capture_dropped",
            "Requests of the sample that were not written, by reason.",
            lambda: [
                ({"model": name, "reason": reason}, float(count))
                for name, one in captures
                for reason, count in sorted(one.dropped.items())
            ],
        ),
        ("capture_copied", "Files copied.", lambda: [({"model": name}, one.copied) for name, one in captures]),
        (
            "capture_copies_failed",
            "Files not copied.",
            lambda: [({"model": name}, one.copies_failed) for name, one in captures],
        ),
    ]
