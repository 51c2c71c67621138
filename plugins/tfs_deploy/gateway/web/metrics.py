"""What Prometheus reads: requests, seconds by stage, by model and version, and what the rooms below report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from tfs_deploy.gateway.web.message import Request

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "tfs_deploy_gateway_"

# A millisecond on the way to a fast model, the 10 s of the default deadline, and some above.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Numbers that are read when somebody asks: name, help, and for each set of labels the value.
Gauge = tuple[str, str, Callable[[], Iterable[tuple[dict[str, str], float]]]]


@dataclass(slots=True)
class _Cell:
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
        self._cells: dict[tuple[str, str, str, str], _Cell] = {}
        self._events: dict[str, Counter] = {}
        self._values: dict[str, Histogram] = {}

    def ended(self, request: Request, status: int, seconds: float) -> None:
        """Count one request."""
        notes = request.notes
        model, version = str(notes.get("model", "")), str(notes.get("version", ""))
        cell = self._cell((model, version, str(notes.get("label", "")), str(status)))
        cell.requests.inc()
        if model:
            cell.seconds.observe(seconds)
            for stage, taken in request.stages.items():
                self._stage(cell, stage).observe(taken)

    def _cell(self, key: tuple[str, str, str, str]) -> _Cell:
        """Return the numbers of one kind of request; looking each up by its labels would take longer than counting."""
        cell = self._cells.get(key)
        if cell is None:
            model, version, _, _ = key
            cell = _Cell(model, version, self._requests.labels(*key), self._seconds.labels(model, version))
            self._cells[key] = cell
        return cell

    def _stage(self, cell: _Cell, stage: str) -> Histogram:
        if stage not in cell.stages:
            cell.stages[stage] = self._stages.labels(cell.model, cell.version, stage)
        return cell.stages[stage]

    def meter(self, model: str) -> ModelMeter:
        """Return where the rooms below report about `model`."""
        return ModelMeter(self, model)

    def add(self, gauges: Iterable[Gauge], counters: Iterable[Gauge] = ()) -> None:
        """Tell these numbers too."""
        self.registry.register(_Read(tuple(gauges), tuple(counters)))

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


class _Read:
    """A collector that asks for the numbers when they are wanted."""

    def __init__(self, gauges: tuple[Gauge, ...], counters: tuple[Gauge, ...]) -> None:
        self._gauges = gauges
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        for name, told, read in self._gauges:
            yield _family(GaugeMetricFamily, name, told, read)
        for name, told, read in self._counters:
            yield _family(CounterMetricFamily, name, told, read)


def _family(kind: Any, name: str, told: str, read: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> Any:
    rows = list(read())
    labels = tuple(rows[0][0]) if rows else ()
    family = kind(PREFIX + name, told, labels=labels)
    for row, value in rows:
        family.add_metric([row[label] for label in labels], value)
    return family
