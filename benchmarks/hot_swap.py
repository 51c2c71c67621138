"""Swap versions under load: 4 clients, 20 swaps; no request may fail, and what a swap costs in latency.

    python benchmarks/hot_swap.py [--json] [--swaps N] [--model SAVED_MODEL]

A swap is from the rename that puts a version into place to the end of the one before. Ends with 1 if a request failed.
Under 90 s.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from under_load import digits
from under_load.client import Load
from under_load.server import model_server, put, wait_for

CLIENTS = 4
_REST_SECONDS = 6.0


def measure(model: Path, work: Path, swaps: int) -> dict[str, float]:
    """Return the figures."""
    base = work / "base"
    put(model, base, 1)
    flags = ("--model_name=digits", f"--model_base_path={base}", "--num_load_threads=2", "--num_unload_threads=1")
    windows = []
    with model_server(*flags) as server:
        wait_for(server.target, "digits", 1, "AVAILABLE")
        with Load(server.target, 1, CLIENTS, work / "records.npy") as load:
            time.sleep(1.0)
            rest = time.monotonic(), time.monotonic() + _REST_SECONDS
            time.sleep(_REST_SECONDS)
            for version in range(2, swaps + 2):
                begun = time.monotonic()
                put(model, base, version)
                wait_for(server.target, "digits", version, "AVAILABLE")
                wait_for(server.target, "digits", version - 1, "END")
                windows.append((begun, time.monotonic()))
    begins, seconds, good = load.records.T
    at_rest = seconds[(begins >= rest[0]) & (begins < rest[1])]
    during = np.concatenate([seconds[(begins >= begun) & (begins < ended)] for begun, ended in windows])
    p99_at_rest, p99_during = (float(np.percentile(values, 99)) * 1000 for values in (at_rest, during))
    return {
        "swaps": swaps,
        "clients": CLIENTS,
        "requests": len(good),
        "failed": int((good == 0).sum()),
        "seconds_per_swap": float(np.median([ended - begun for begun, ended in windows])),
        "p99_at_rest_ms": p99_at_rest,
        "p99_during_swaps_ms": p99_during,
        "slowest_ms": float(seconds.max()) * 1000,
        "ratio": p99_during / p99_at_rest,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--model", type=Path, help="a SavedModel of the digits model, instead of training one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-bench-") as work:
        found = measure(digits.exported(Path(work), args.model), Path(work), args.swaps)
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name.replace('_', ' '):24}{value:12,.2f}" if isinstance(value, float) else f"{name:24}{value:12,}")
    if found["failed"]:
        raise SystemExit(f"{found['failed']} requests failed")


if __name__ == "__main__":
    main()
