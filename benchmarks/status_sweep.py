"""Ask a group of 10, 100 and 1,000 replicas for its status: one model, three labels, so four RPCs per replica.

    python benchmarks/status_sweep.py [--json] [--rounds N] [--replicas N ...]

A sweep is the whole step `status`, with the connections that it opens and closes. The limit to compare with is measured
on the same servers: as many bare GetModelStatus RPCs over as many connections, on one event loop. The servers answer
from memory on the same machine, so their processor time is given too: with it, a sweep of this machine takes longer
than one whose servers have processors of their own. Ends with 1 if a sweep of 1,000 replicas took 2 s or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import grpc.aio

from tfs_deploy.deployment.session import open_session
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.serving import rpc
from tfs_deploy.serving.client import options
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.config import ModelEntry, to_text
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.sweep import MAX_CONNECTIONS
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store
from under_load.many_ports import LABELS, Ports, many_ports

MODEL = "m"
RPCS_PER_REPLICA = 4
LIMIT_SECONDS = 2.0


def sweep(store: Store, group: ServingGroup) -> float:
    """Return the seconds of one status of `group`; stop if it is not what the servers hold."""
    begun = time.perf_counter()
    with open_session(store, group, actor="a benchmark") as session:
        report = status(session)
    seconds = time.perf_counter() - begun
    replicas = report.models[MODEL].observed.replicas
    if report.differences or len(replicas) != len(group.replicas):
        raise SystemExit(f"{len(report.differences)} differences in {len(replicas)} replicas: {report.drift}")
    return seconds


def bare_calls(targets: tuple[str, ...]) -> float:
    """Return the seconds of as many RPCs without the step."""
    request = messages.GetModelStatusRequest()
    request.model_spec.name = MODEL
    body = request.SerializeToString()

    async def ask(target: str, slots: asyncio.Semaphore) -> None:
        async with slots, grpc.aio.insecure_channel(target, options=options(None)) as channel:
            call = channel.unary_unary(rpc.GET_MODEL_STATUS.path)
            for _ in range(RPCS_PER_REPLICA):
                await call(body, timeout=5.0)

    async def ask_all() -> None:
        slots = asyncio.Semaphore(MAX_CONNECTIONS)
        await asyncio.gather(*(ask(target, slots) for target in targets))

    begun = time.perf_counter()
    asyncio.run(ask_all())
    return time.perf_counter() - begun


def measure(ports: Ports, work: Path, rounds: int) -> dict[str, float]:
    """Return the figures of one group."""
    (work / "store" / MODEL).mkdir(parents=True)
    config = work / "models.config"
    labels = {label.decode(): version for label, version in LABELS.items()}
    config.write_text(to_text([ModelEntry(MODEL, str(work / "store" / MODEL), (1, 2), labels)]))
    store = open_store(str(work / "store"))
    group = ServingGroup("default", ports.targets, str(work / "store"), startup_config=str(config))
    sweeps, bare, cpu, server_cpu = [], [], [], []
    for _ in range(rounds):
        before, before_here = ports.cpu_seconds(), time.process_time()
        sweeps.append(sweep(store, group))
        cpu.append(time.process_time() - before_here)
        server_cpu.append(ports.cpu_seconds() - before)
        bare.append(bare_calls(ports.targets))
    seconds, limit = statistics.median(sweeps), statistics.median(bare)
    return {
        "replicas": len(ports.targets),
        "rpcs": len(ports.targets) * RPCS_PER_REPLICA,
        "sweep_seconds": seconds,
        "slowest_seconds": max(sweeps),
        "bare_seconds": limit,
        "cpu_seconds": statistics.median(cpu),
        "server_cpu_seconds": statistics.median(server_cpu),
        "ratio": seconds / limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    figures = []
    for count in arguments.replicas:
        with many_ports(count) as ports, tempfile.TemporaryDirectory() as folder:
            figures.append(measure(ports, Path(folder), arguments.rounds))
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        for case in figures:
            print(
                f"{case['replicas']:>5} replicas, {case['rpcs']:>5} RPCs: status {case['sweep_seconds']:.2f} s "
                f"(slowest {case['slowest_seconds']:.2f} s), bare RPCs {case['bare_seconds']:.2f} s, "
                f"ratio {case['ratio']:.2f}; processor time here {case['cpu_seconds']:.2f} s, "
                f"of the servers {case['server_cpu_seconds']:.2f} s"
            )
    if any(case["replicas"] == 1000 and case["sweep_seconds"] >= LIMIT_SECONDS for case in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
