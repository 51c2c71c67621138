"""Deploy many models at once to one group, against the time that the same deploys need one after the other.

    python benchmarks/many_deployers.py [--json] [--models N] [--replicas N]

The replicas answer from memory behind real gRPC ports in a process of their own, so that what is measured is the
deployers' own work: their waits for each other above all. Each deployer is a thread with its own connections; it
publishes, loads (the name is new: behind the placeholder), validates and promotes its model, without a retry.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from saved_model_files import write_saved_model
from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.modes import labels
from tfs_deploy.deployment.session import open_session
from tfs_deploy.errors import Contention, TFSDeployError
from tfs_deploy.serving import rpc
from tfs_deploy.serving.client import ModelServerClient
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates
from under_load.light_replicas import light_replicas

LIMIT_RATIO = 1.5


@dataclass
class Run:
    """What one way to deploy the models cost; `seconds` is per deploy, in the order of their ends."""

    total: float = 0.0
    seconds: list[float] = field(default_factory=list)
    contention: int = 0
    failed: list[str] = field(default_factory=list)
    reloads: int = 0


@contextmanager
def counted_reloads(run: Run) -> Iterator[None]:
    """Count the reloads that all clients send in the block."""
    send = ModelServerClient._send

    async def counted(client: ModelServerClient, method: rpc.Method, request: bytes, seconds: float) -> bytes:
        if method is rpc.HANDLE_RELOAD_CONFIG:
            run.reloads += 1
        return await send(client, method, request, seconds)

    with patch.object(ModelServerClient, "_send", counted):
        yield


def deploy_all(folder: Path, models: int, replicas: int, *, at_once: int) -> Run:
    """Deploy `models` different models to fresh servers, `at_once` of them at a time."""
    run, root = Run(), folder / "store"
    root.mkdir(parents=True)
    staged = [write_saved_model(folder / "staged" / str(number), f"good {number}") for number in range(models)]
    with light_replicas(replicas) as targets, counted_reloads(run):
        store = open_store(str(root))
        group = ServingGroup("default", targets, str(root), startup_config=str(folder / "models.config"))

        def deploy(number: int) -> None:
            started = time.perf_counter()
            try:
                with open_session(store, group, actor=f"deployer {number}") as session:
                    labels.deploy(session, staged[number], f"model_{number}", Gates())
            except Contention:
                run.contention += 1
            except TFSDeployError as error:
                run.failed.append(str(error))
            run.seconds.append(time.perf_counter() - started)

        started = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(deploy, range(models)))
        run.total = time.perf_counter() - started
        live = [model.labels.get("stable") for model in desired_state.read(store.documents, group).models.values()]
    if len(live) != models or set(live) != {1}:
        run.failed.append(f"{len([version for version in live if version])} of {models} models are live")
    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--replicas", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone = deploy_all(Path(folder) / "alone", arguments.models, arguments.replicas, at_once=1)
        together = deploy_all(Path(folder) / "together", arguments.models, arguments.replicas, at_once=arguments.models)
    ratio = together.total / alone.total
    if arguments.json:
        figures = {"alone": alone.__dict__, "at_once": together.__dict__, "ratio": ratio, "limit": LIMIT_RATIO}
        print(json.dumps(figures, indent=1))
        return
    print(f"{arguments.models} models, {arguments.replicas} light replicas, a thread per deployer, no retries")
    print("                        one after the other     at once")
    print(
        f"all, seconds            {alone.total:19.2f} {together.total:11.2f}   ratio {ratio:.2f}, limit {LIMIT_RATIO}"
    )
    print(f"slowest deploy, seconds {max(alone.seconds):19.2f} {max(together.seconds):11.2f}")
    reloads = [run.reloads / arguments.replicas for run in (alone, together)]
    print(f"reloads per replica     {reloads[0]:19.0f} {reloads[1]:11.0f}")
    print(f"Contention              {alone.contention:19} {together.contention:11}")
    for failure in (*alone.failed, *together.failed):
        print(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
