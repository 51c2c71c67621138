"""Predict through gRPC on the digits model, against the session itself, and beside TF Serving's own figures.

    python benchmarks/model_server.py [--json] [--seconds S] [--model SAVED_MODEL]

Clients are asyncio in another process. The limit is the same session called in a loop with nothing in between, by one
thread for one client and by four for 32; beside it a gRPC server in Python that answers at once and runs nothing.
Aim: half of the limit at batch 64, p50 under 1 ms at one client. Under 90 s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from under_load import digits
from under_load.bare_grpc import bare_server
from under_load.client import Load
from under_load.server import model_server, put, wait_for

SESSION = Path(__file__).parent / "under_load" / "session.py"
CELLS = ((1, 1), (1, 32), (64, 1), (64, 32))
# TensorFlow Serving 2.20.0 on CPUs, requests per second by (rows, clients): a like Conv2D model, 2 cores, unoptimised
# build, Python asyncio client on the same machine; seen when the behaviour of that server was written down.
TF_SERVING = {(1, 1): 1805.0, (1, 32): 6532.0, (64, 1): 1020.0, (64, 32): 2946.0}
_WARM_SECONDS = 0.7


def measure(model: Path, work: Path, seconds: float) -> list[dict[str, float]]:
    """Return one row per cell."""
    told = subprocess.run(
        [sys.executable, str(SESSION), str(model), str(seconds / 2)], capture_output=True, text=True, check=True
    )
    limits = json.loads(told.stdout.splitlines()[-1])
    put(model, work / "base", 1)
    with model_server("--model_name=digits", f"--model_base_path={work}/base") as server:
        wait_for(server.target, "digits", 1, "AVAILABLE")
        return [_cell(server.target, batch, clients, limits, work, seconds) for batch, clients in CELLS]


def _cell(
    target: str, batch: int, clients: int, limits: dict[str, float], work: Path, seconds: float
) -> dict[str, float]:
    rate, p50, p99 = _under_load(target, batch, clients, work, seconds)
    with bare_server(batch) as bare:
        bare_rate, bare_p50, _ = _under_load(bare, batch, clients, work, seconds / 2)
    limit = limits[f"{batch} x {1 if clients == 1 else 4}"]
    return {
        "batch": batch,
        "clients": clients,
        "requests_per_second": rate,
        "p50_ms": p50,
        "p99_ms": p99,
        "session_per_second": limit,
        "share_of_session": rate / limit,
        "bare_grpc_per_second": bare_rate,
        "bare_grpc_p50_ms": bare_p50,
        # One request needs the session and the transport, and the cores are shared: no server on grpcio can be above.
        "share_of_both": rate * (1 / limit + 1 / bare_rate),
        "tf_serving_2_20_per_second": TF_SERVING[batch, clients],
    }


def _under_load(target: str, batch: int, clients: int, work: Path, seconds: float) -> tuple[float, float, float]:
    """Return requests per second, p50 and p99 in ms."""
    with Load(target, batch, clients, work / "records.npy") as load:
        time.sleep(_WARM_SECONDS)
        begun = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
    records = load.records[(load.records[:, 0] >= begun) & (load.records[:, 0] < ended)]
    assert records[:, 2].all(), "requests failed"
    p50, p99 = np.percentile(records[:, 1], (50, 99)) * 1000
    return len(records) / (ended - begun), p50, p99


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=4.0, help="per cell (%(default)s)")
    parser.add_argument("--model", type=Path, help="a SavedModel of the digits model, instead of training one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-bench-") as work:
        rows = measure(digits.exported(Path(work), args.model), Path(work), args.seconds)
    at_one, at_64 = rows[0], [row for row in rows if row["batch"] == 64]
    within = {
        "half of the session at batch 64": min(row["share_of_session"] for row in at_64) >= 0.5,
        "p50 under 1 ms at one client": at_one["p50_ms"] < 1.0,
    }
    if args.json:
        print(json.dumps({"rows": rows, "within_aim": within}))
        return
    heads = f"{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'session/s':>11}{'share':>8}{'bare gRPC/s':>13}{'its p50':>9}"
    print(f"{'batch':>6}{'clients':>9}{heads}{'of both':>9}{'TF Serving*':>13}")
    for row in rows:
        print(
            f"{row['batch']:6}{row['clients']:9}{row['requests_per_second']:9.0f}{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f}{row['session_per_second']:11.0f}{row['share_of_session']:8.2f}"
            f"{row['bare_grpc_per_second']:13.0f}{row['bare_grpc_p50_ms']:9.2f}{row['share_of_both']:9.2f}"
            f"{row['tf_serving_2_20_per_second']:13.0f}"
        )
    print("* 2.20.0, another machine and a like model: for the order of magnitude only")
    for name, met in within.items():
        print(f"{name}: {'yes' if met else 'no'}")


if __name__ == "__main__":
    main()
