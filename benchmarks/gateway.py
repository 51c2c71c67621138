"""The gateway against gRPC without it, and against the handler that tutorials show, on one server in one run.

    python benchmarks/gateway.py [--json] [--seconds S] [--model SAVED_MODEL] [--connections N]

One image of the digits model per request, as JSON; clients are asyncio in another process. The tutorial's handler
calls a blocking stub inside `post`. Then: one replica of two answers 500 ms late, one replica of two is killed under
load, idle connections are opened, and /healthz is asked while a body of 8 million integers is read, beside what
reading it in one go takes, which is what everybody would wait for. Aims: the gateway adds at most 2 ms to the p50 at
one client; at 64 clients, with micro-batching, at least 3 times the tutorial's throughput. About two minutes; needs
TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from under_load import digits
from under_load.client import Load
from under_load.http_client import HTTPLoad
from under_load.processes import gateway, program
from under_load.server import Started, model_server, put, wait_for

CLIENTS = (1, 16, 64)
SLOW_SECONDS = 0.5
_WARM_SECONDS = 1.0
_FAULT_CLIENTS = 16
_PATH = "/v1/models/digits"
_NUMBERS = 8_000_000
_BATCHING = {"micro_batching": {"max_rows": 64, "wait_ms": 2}}


def measure(model: Path, work: Path, seconds: float, connections: int) -> dict[str, Any]:
    """Return all figures."""
    base = work / "base"
    put(model, base, 1)
    body = json.dumps({"item": digits.images(1)[0].tolist()}).encode()
    with labelled_server(work, base) as first, labelled_server(work, base) as second:
        rows = throughput(first.target, work, body, seconds)
        faults = [
            under_fault("none", work, body, seconds, first.target, second.target),
            slow(work, body, seconds, first.target, second.target, {}),
            slow(work, body, seconds, first.target, second.target, {"hedging": {"after_ms": 30, "max_percent": 60}}),
        ]
        idle = idle_connections(first.target, work, connections)
        large = large_body(first.target, work)
        faults.append(under_fault("a replica is killed", work, body, seconds, first.target, second.target, second.pid))
    return {"throughput": rows, "faults": faults, "idle": idle, "large_body": large}


def throughput(target: str, work: Path, body: bytes, seconds: float) -> list[dict[str, Any]]:
    """Return one row per way and number of clients."""
    rows = []
    for clients in CLIENTS:
        with Load(target, 1, clients, work / "records.npy") as load:
            begun, ended = _wait(seconds)
        rows.append(_row("direct gRPC", clients, load.records, begun, ended))
        with program("tutorial_handler.py", target) as tutorial:
            rows.append(_asked("tutorial's handler", tutorial.address, "/predict", body, clients, work, seconds))
        with gateway(work, target) as plain:
            rows.append(_asked("gateway", plain.address, _PATH, body, clients, work, seconds))
        with gateway(work, target, **_BATCHING) as batching:
            rows.append(_asked("gateway, micro-batching", batching.address, _PATH, body, clients, work, seconds))
    return rows


def slow(work: Path, body: bytes, seconds: float, target: str, other: str, model: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with one replica of two that answers late."""
    name = "a replica is 500 ms slow" + (", hedging" if model else "")
    with program("slow_replica.py", other, str(SLOW_SECONDS)) as late:
        return under_fault(name, work, body, seconds, target, late.address, **model)


def under_fault(
    name: str, work: Path, body: bytes, seconds: float, target: str, other: str, kill: int = 0, **model: Any
) -> dict[str, Any]:
    """Return error rate and latency with two replicas, the second of which may be killed meanwhile."""
    with (
        gateway(work, target, other, **model) as asked,
        HTTPLoad(asked.address, _PATH, body, _FAULT_CLIENTS, work / "records.npy") as load,
    ):
        time.sleep(_WARM_SECONDS)
        begun = time.monotonic()
        time.sleep(seconds / 2)
        if kill:
            os.kill(kill, signal.SIGKILL)
        time.sleep(seconds / 2)
        ended = time.monotonic()
    return {"fault": name, **_row("gateway", _FAULT_CLIENTS, load.records, begun, ended)}


def idle_connections(target: str, work: Path, wanted: int) -> dict[str, Any]:
    """Return what connections cost that do nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(wanted, hard - 600)
    with gateway(work, target) as asked, contextlib.ExitStack() as held:
        host, port = asked.address.split(":")
        before = asked.resident_kib()
        begun = time.perf_counter()
        for _ in range(count):
            held.enter_context(socket.create_connection((host, int(port)), timeout=10.0))
        opened = time.perf_counter() - begun
        time.sleep(2.0)
        after = asked.resident_kib()
        last = held.enter_context(socket.create_connection((host, int(port)), timeout=10.0))
        begun = time.perf_counter()
        last.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert last.recv(4096).startswith(b"HTTP/1.1 200")
        answered = time.perf_counter() - begun
    return {
        "connections": count,
        "seconds_to_open": opened,
        "mib_before": before / 1024,
        "mib_with_them": after / 1024,
        "kib_per_connection": (after - before) / count,
        "healthz_ms": answered * 1000,
    }


def large_body(target: str, work: Path) -> dict[str, Any]:
    """Return how long others wait while many numbers are read, which the model then does not take."""
    body = b'{"item": [' + b",".join([b"1"] * _NUMBERS) + b"]}"
    begun = time.perf_counter()
    np.array(msgspec.json.decode(body)["item"], np.float32)
    in_one_go = time.perf_counter() - begun
    with gateway(work, target) as asked:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(_status(asked.address, "POST", _PATH, body)))
        waits = []
        asking.start()
        while asking.is_alive():
            begun = time.perf_counter()
            assert _status(asked.address, "GET", "/healthz", b"") == HTTPStatus.OK
            waits.append(time.perf_counter() - begun)
            time.sleep(0.002)
        asking.join()
    assert answers == [HTTPStatus.UNPROCESSABLE_ENTITY], answers
    return {"numbers": _NUMBERS, "in_one_go_ms": in_one_go * 1000, "longest_wait_ms": max(waits) * 1000}


def _status(address: str, method: str, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(address, timeout=60.0)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


@contextlib.contextmanager
def labelled_server(work: Path, base: Path) -> Iterator[Started]:
    """Run a model server on which `stable` is version 1."""
    config = work / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "digits" base_path: "{base}" model_platform: "tensorflow" '
        'version_labels { key: "stable" value: 1 } } }'
    )
    with model_server(f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true") as server:
        wait_for(server.target, "digits", 1, "AVAILABLE")
        yield server


def _asked(way: str, address: str, path: str, body: bytes, clients: int, work: Path, seconds: float) -> dict[str, Any]:
    with HTTPLoad(address, path, body, clients, work / "records.npy") as load:
        begun, ended = _wait(seconds)
    return _row(way, clients, load.records, begun, ended)


def _wait(seconds: float) -> tuple[float, float]:
    time.sleep(_WARM_SECONDS)
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def _row(way: str, clients: int, records: np.ndarray, begun: float, ended: float) -> dict[str, Any]:
    records = records[(records[:, 0] >= begun) & (records[:, 0] < ended)]
    p50, p99 = np.percentile(records[:, 1], (50, 99)) * 1000
    return {
        "way": way,
        "clients": clients,
        "requests_per_second": len(records) / (ended - begun),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "requests": len(records),
        "failed": int((records[:, 2] == 0).sum()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each cell")
    parser.add_argument("--model", type=Path, help="a SavedModel of the digits; without it one is trained")
    parser.add_argument("--connections", type=int, default=10_000, help="idle ones")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-bench-") as work:
        found = measure(digits.exported(Path(work), args.model), Path(work), args.seconds, args.connections)
    cells = {(row["way"], row["clients"]): row for row in found["throughput"]}
    added = cells["gateway", 1]["p50_ms"] - cells["direct gRPC", 1]["p50_ms"]
    ratio = (
        cells["gateway, micro-batching", 64]["requests_per_second"]
        / cells["tutorial's handler", 64]["requests_per_second"]
    )
    found["within_aim"] = {
        f"added p50 at 1 client {added:.2f} ms, at most 2": added <= 2.0,
        f"{ratio:.1f} times the tutorial's throughput at 64 clients, at least 3": ratio >= 3.0,
    }
    if args.json:
        print(json.dumps(found))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print tables."""
    print(f"{'':28}{'clients':>8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for row in [*found["throughput"], *found["faults"]]:
        print(
            f"{row.get('fault', row['way']):28}{row['clients']:8}{row['requests_per_second']:9.0f}"
            f"{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}{row['failed']:8}"
        )
    idle = found["idle"]
    print(
        f"{idle['connections']} idle connections: {idle['mib_before']:.0f} MiB become {idle['mib_with_them']:.0f} MiB, "
        f"{idle['kib_per_connection']:.1f} KiB each; /healthz meanwhile {idle['healthz_ms']:.1f} ms"
    )
    large = found["large_body"]
    waited, in_one_go = large["longest_wait_ms"], large["in_one_go_ms"]
    print(
        f"{large['numbers']} integers in one body: /healthz waits {waited:.0f} ms at most, "
        f"reading them in one go takes {in_one_go:.0f} ms: {waited / in_one_go:.2f}"
    )
    for name, met in found["within_aim"].items():
        print(f"{name}: {'yes' if met else 'no'}")


if __name__ == "__main__":
    main()
