"""How long after a version is complete in the store it is in sight of a server: at most one poll beyond the copy.

python benchmarks/sync_latency.py [--versions N]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sync.bench import Bench
from tfs_deploy.clock import SystemClock
from tfs_deploy.sync.agent import Agent
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.run import run_until
from tfs_deploy.sync.settings import AgentSettings

POLL = 0.4
GIVE_UP_SECONDS = 60.0


@contextmanager
def running(agent: Agent) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run_until, args=(agent, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        agent.wake.set()
        thread.join()


def measure(folder: Path, versions: int) -> None:
    bench = Bench(folder)
    disk = ReplicaDisk(bench.root)
    disk.prepare()
    agent = Agent(bench.store, disk, AgentSettings("g", "agent", latest=("m",), poll=POLL), clock=SystemClock())
    waited = []
    with running(agent):
        for _ in range(versions):
            version = bench.publish(weights=os.urandom(1000))
            published = time.monotonic()
            directory = bench.root / "m" / str(version)
            while not directory.is_dir():
                assert time.monotonic() - published < GIVE_UP_SECONDS
                time.sleep(0.002)
            waited.append(time.monotonic() - published)
            time.sleep(0.13)
    beyond = (sum(waited) - agent.metrics.values().download_seconds) / len(waited)
    print(
        f"poll {POLL} s: in sight {beyond:.2f} s after the commit on average beyond the copy, "
        f"at most {max(waited):.2f} s with it"
    )
    print(f"  beyond the copy / poll {beyond / POLL:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-latency-") as folder:
        measure(Path(folder), arguments.versions)


if __name__ == "__main__":
    main()
