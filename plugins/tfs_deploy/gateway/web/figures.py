"""The numbers that are read from the parts of a gateway when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tfs_deploy.gateway.processors.pool import ProcessorPool
from tfs_deploy.gateway.web.access_log import AccessLog
from tfs_deploy.gateway.web.endpoint import Served
from tfs_deploy.gateway.web.metrics import Gauge, Metrics
from tfs_deploy.gateway.web.request_budget import Room
from tfs_deploy.gateway.web.server import Port

_Rows = Iterable[tuple[dict[str, str], float]]


def tell(
    metrics: Metrics, models: Sequence[Served], *, room: Room, port: Port, pool: ProcessorPool | None, log: AccessLog
) -> None:
    """Have `metrics` tell the numbers of these parts."""

    def per_model(value: Callable[[Served], float]) -> Callable[[], _Rows]:
        return lambda: [({"model": served.name}, value(served)) for served in models]

    def one(value: Callable[[], float]) -> Callable[[], _Rows]:
        return lambda: [({}, value())]

    gauges: list[Gauge] = [
        ("requests_held", "Requests under way.", per_model(lambda served: room.held(served.name))),
        ("requests_waiting", "Requests that wait for a turn.", per_model(lambda s: s.upstream.admission.waiting)),
        ("replica_asked", "1 for each model server that is asked at the moment.", lambda: _replicas(models)),
        ("live_version", "The version that the model's label means.", lambda: _versions(models)),
        ("body_bytes_held", "Bytes of requests in memory.", one(lambda: room.held_bytes)),
        ("connections", "Connections of clients, idle ones included.", one(lambda: port.connections)),
    ]
    if pool is not None:
        gauges.append(("pool_jobs_waiting", "Jobs that wait for a process.", one(lambda: pool.waiting)))
    counters: list[Gauge] = [("access_log_dropped", "Lines that were not logged.", one(lambda: log.dropped))]
    if any(served.capture is not None for served in models):
        counters += _capture(models)
    metrics.add(gauges, counters)


def _replicas(models: Sequence[Served]) -> _Rows:
    return [
        ({"model": served.name, "replica": replica}, float(asked))
        for served in models
        for replica, asked in sorted(served.upstream.replicas().items())
    ]


def _versions(models: Sequence[Served]) -> _Rows:
    found = ((served, served.upstream.live_version()) for served in models)
    return [({"model": served.name, "label": served.config.label}, float(known)) for served, known in found if known]


def _capture(models: Sequence[Served]) -> list[Gauge]:
    captures = [(served.name, served.capture.figures) for served in models if served.capture is not None]
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
