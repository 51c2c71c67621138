"""Counters and histograms under TF Serving's names, and the Prometheus page with them.

There is one set per process, as in TF Serving. Nothing is recorded before `turn_on`, so a server without a metrics page
has no overhead.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tfs_deploy.modelserver.status import Code, of_exception

# `monitoring::Buckets::Exponential(10, 1.8, 33)`, microseconds: up to about 20 minutes.
_LIMITS = tuple(10 * 1.8**power for power in range(33))
# `Exponential(1, 2, 15)`, examples: up to 16,384.
_EXAMPLE_LIMITS = tuple(float(2**power) for power in range(15))
_MICROSECONDS = 1_000_000

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Cell:
    """The state for one combination of labels; a counter uses `total` alone."""

    buckets: list[int]
    total: float = 0.0


class Metric:
    """One counter or histogram; `path` is its name in TensorFlow, `limits` those of the histogram's buckets."""

    def __init__(self, path: str, kind: str, *labels: str, limits: tuple[float, ...] = _LIMITS) -> None:
        self.path = path
        self.name = re.sub(r"[^a-zA-Z0-9_]", ":", path)
        self._kind = kind
        self._labels = labels
        self._limits = limits
        self._cells: dict[Labels, _Cell] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, value: float = 1) -> None:
        """Count `value`, or put it into its bucket."""
        if not _state.on:
            return
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = _Cell([0] * (len(self._limits) + 1))
            cell.total += value
            if self._kind == "histogram":
                cell.buckets[bisect_right(self._limits, value)] += 1

    def first_count(self) -> int:
        """Return the count of the first combination of labels; 0 without one, and for a histogram."""
        with self._lock:
            cell = self._cells[min(self._cells)] if self._cells and self._kind == "counter" else None
            return 0 if cell is None else int(cell.total)

    def lines(self) -> Iterator[str]:
        """Return the lines of the metric on the page."""
        yield f"# TYPE {self.name} {self._kind}"
        with self._lock:
            cells = [(labels, cell.total, list(cell.buckets)) for labels, cell in sorted(self._cells.items())]
        for labels, total, buckets in cells:
            shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(self._labels, labels, strict=True))
            if self._kind == "counter":
                yield f"{self.name}{{{shown}}} {int(total)}"
            else:
                yield from self._histogram_lines(shown, total, buckets)

    def _histogram_lines(self, shown: str, total: float, buckets: list[int]) -> Iterator[str]:
        count = 0
        for limit, inside in zip((*(f"{limit:g}" for limit in self._limits), "+Inf"), buckets, strict=True):
            count += inside
            yield f'{self.name}_bucket{{{shown},le="{limit}"}} {count}'
        yield f"{self.name}_sum{{{shown}}} {total:g}"
        yield f"{self.name}_count{{{shown}}} {count}"


@dataclass(slots=True)
class _State:
    on: bool = False


_state = _State()

request_count = Metric("/tensorflow/serving/request_count", "counter", "model_name", "status")
request_latency = Metric("/tensorflow/serving/request_latency", "histogram", "model_name", "API", "entrypoint")
runtime_latency = Metric("/tensorflow/serving/runtime_latency", "histogram", "model_name", "API", "runtime")
warmup_latency = Metric("/tensorflow/serving/model_warmup_latency", "histogram", "model_path", "status")
load_attempts = Metric("/tensorflow/cc/saved_model/load_attempt_count", "counter", "model_path", "status")
load_latency = Metric("/tensorflow/cc/saved_model/load_latency", "counter", "model_path")
example_counts = Metric("/tensorflow/serving/request_example_counts", "histogram", "model", limits=_EXAMPLE_LIMITS)
example_total = Metric("/tensorflow/serving/request_example_count_total", "counter", "model")

_ALL = (
    request_count, request_latency, runtime_latency, warmup_latency, load_attempts, load_latency, example_counts,
    example_total,
)  # fmt: skip


def turn_on() -> None:
    """Start to record."""
    _state.on = True


def are_on() -> bool:
    """Return whether metrics are recorded."""
    return _state.on


def counts(paths: Iterable[str]) -> dict[str, int]:
    """Return the count of each path, as TF Serving reports it with a reload: of the first labels only, 0 if unknown."""
    known = {metric.path: metric for metric in _ALL}
    return {path: known[path].first_count() if path in known else 0 for path in paths}


def page() -> str:
    """Return all metrics in Prometheus' text format, by name."""
    return "\n".join(line for metric in sorted(_ALL, key=lambda metric: metric.name) for line in metric.lines()) + "\n"


@contextmanager
def measured_request(model: str, api: str, entrypoint: str) -> Iterator[None]:
    """Count one request by its outcome; its time counts only when it is answered."""
    if not _state.on:
        yield
        return
    begun = time.monotonic()
    try:
        yield
    except Exception as error:
        request_count.add((model, of_exception(error).code.name))
        raise
    request_latency.add((model, api, entrypoint), (time.monotonic() - begun) * _MICROSECONDS)
    request_count.add((model, Code.OK.name))


def record_run(model: str, api: str, begun: float) -> None:
    """Record the time of one successful session run; `begun` is its monotonic start time."""
    if _state.on:
        runtime_latency.add((model, api, "TF1"), (time.monotonic() - begun) * _MICROSECONDS)


def record_examples(model: str, count: int) -> None:
    """Count the tf.Examples of one run that succeeded."""
    example_counts.add((model,), count)
    example_total.add((model,), count)


@contextmanager
def measured_load(path: str) -> Iterator[None]:
    """Count one attempt to load the SavedModel at `path`, without its warm-up."""
    begun = time.monotonic()
    try:
        yield
    except Exception:
        load_attempts.add((path, "fail"))
        raise
    load_latency.add((path,), (time.monotonic() - begun) * _MICROSECONDS)
    load_attempts.add((path, "success"))


def record_warmup(path: str, begun: float, status: str = Code.OK.name) -> None:
    """Record the time of a warm-up that read its whole file, or up to damage in it; `begun` is a monotonic time.

    A warm-up that ends with a failed request is not recorded, as in TF Serving.
    """
    warmup_latency.add((path, status), (time.monotonic() - begun) * _MICROSECONDS)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
