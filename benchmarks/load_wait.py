"""From AVAILABLE on the last of three replicas to the end of the wait for it.

    python benchmarks/load_wait.py [--json] [--loads N]

The peer is a loop that polls every 10 ms; all wait for the same loads, which take 0.3 to 1.5 s, on servers behind real
gRPC. The aim is a median of 60 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fakes import FakeModelServer
from serving.grpc_front import serve
from tfs_deploy.clock import SystemClock
from tfs_deploy.serving.client import connect, connect_aio
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.replies import VersionState
from tfs_deploy.serving.waiting import WaitLimits, wait_until_available, wait_until_available_aio

AIM_MS = 60.0
REPLICAS = 3
PEER_PAUSE = 0.01
Wait = Callable[[list[str], int], None]


def blocking(targets: list[str], version: int) -> None:
    with ExitStack() as stack:
        clients = {target: stack.enter_context(connect(target)) for target in targets}
        wait_until_available(clients, "m", version, limits=WaitLimits(), clock=SystemClock())


def in_a_loop(targets: list[str], version: int) -> None:
    async def wait() -> None:
        clients = {target: connect_aio(target) for target in targets}
        try:
            await wait_until_available_aio(clients, "m", version, limits=WaitLimits(), clock=SystemClock())
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()))

    asyncio.run(wait())


def peer(targets: list[str], version: int) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(target)) for target in targets]
        while clients:
            if all(row.state is VersionState.AVAILABLE for row in clients[-1].status("m", version, timeout=5.0)):
                clients.pop()
            else:
                time.sleep(PEER_PAUSE)


WAITS: dict[str, Wait] = {"blocking": blocking, "asyncio": in_a_loop, "peer": peer}


def load_slowly(servers: list[FakeModelServer], seconds: float) -> float:
    """Take every server through its states, the last step at the end; return when that was."""
    for server in servers:
        server.tick()
    time.sleep(seconds)
    while any(server.tick() for server in servers):
        available = time.perf_counter()
    return available


def measure(loads: int) -> dict[str, dict[str, float]]:
    """Return, per wait, the milliseconds from AVAILABLE to its end: the median and the maximum."""
    chance = random.Random(11)
    late: dict[str, list[float]] = {name: [] for name in WAITS}
    servers = [FakeModelServer(immediate=False) for _ in range(REPLICAS)]
    with ExitStack() as stack, ThreadPoolExecutor(len(WAITS)) as pool:
        targets = [stack.enter_context(serve(server)) for server in servers]
        clients = [stack.enter_context(connect(target)) for target in targets]

        def ended(wait: Wait, version: int, begin: threading.Barrier) -> float:
            begin.wait()
            wait(targets, version)
            return time.perf_counter()

        for version in range(1, loads + 2):
            for server, client in zip(servers, clients, strict=True):
                server.put("/models/m", version)
                client.reload(to_proto([ModelEntry("m", "/models/m", (version,), {})]), timeout=5.0)
            if version == 1:
                continue
            begin = threading.Barrier(len(WAITS) + 1)
            ends = {name: pool.submit(ended, wait, version, begin) for name, wait in WAITS.items()}
            begin.wait()
            available = load_slowly(servers, chance.uniform(0.3, 1.5))
            for name, end in ends.items():
                late[name].append(1000 * (end.result() - available))
    return {name: {"median_ms": statistics.median(each), "worst_ms": max(each)} for name, each in late.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--loads", type=int, default=25)
    args = parser.parse_args()
    sides = measure(args.loads)
    ratio = sides["blocking"]["median_ms"] / sides["peer"]["median_ms"]
    if args.json:
        within = {name: side["median_ms"] <= AIM_MS for name, side in sides.items()}
        print(json.dumps({**sides, "ratio": ratio, "within_aim": within}))
        return
    print(f"{'':12}{'median ms':>12}{'worst ms':>12}")
    for name, side in sides.items():
        print(f"{name:12}{side['median_ms']:12.1f}{side['worst_ms']:12.1f}")
    print(f"{'ratio':12}{ratio:12.2f}")


if __name__ == "__main__":
    main()
