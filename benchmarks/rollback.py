"""Roll back a group of ten replicas, from the decision to `stable` verified on all of them.

    python benchmarks/rollback.py [--json] [--rounds N] [--replicas N] [--records N]

The replicas answer from memory behind a real gRPC port, all in one process of their own. The limit to compare with is
measured on the same servers: one bare reload and one bare look at the label per replica, all replicas at once. Cases:
a small model; the same with a long history; a model of 1 GB (a sparse file); 30 other models in the group.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from saved_model_files import write_saved_model
from tfs_deploy.clock import SystemClock
from tfs_deploy.deployment import records
from tfs_deploy.deployment.modes import labels
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession, open_session
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.serving import rpc
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.client import ModelServerClient
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.serving.rpc_calls import Address
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates
from under_load.light_replicas import light_replicas

MODEL = "m"
LIMIT_SECONDS = 1.0
OTHER_MODELS = 30
# A case ends after this time, however many rounds it has done.
_CASE_SECONDS = 40.0
# These only pass a question on.
_PASS_ON = ("session", "replica_status", "__init__")
_LARGE_BYTES = 1_000_000_000
_SMALL_BYTES = 1_000_000


@dataclass(frozen=True)
class Case:
    """One situation to roll back in."""

    name: str
    model_bytes: int = _SMALL_BYTES
    records: int = 10
    other_models: int = 0


class RpcCounter:
    """Counts the RPCs of every client by method and by the function of the deployment that asked."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reload = b""
        self.active = False
        self._lock = threading.Lock()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Count those of the clients that are made in the block, while `active`."""
        send = ModelServerClient._send

        async def counted(client: ModelServerClient, method: rpc.Method, request: bytes, seconds: float) -> bytes:
            if self.active:
                with self._lock:
                    self.counts[method.name, _caller()] += 1
                    if method is rpc.HANDLE_RELOAD_CONFIG:
                        self.reload = request
            return await send(client, method, request, seconds)

        with patch.object(ModelServerClient, "_send", counted):
            yield


def _caller() -> str:
    """Return the two innermost functions of the deployment that asked, without those that only pass questions on."""
    frame: FrameType | None = inspect.currentframe()
    callers: list[str] = []
    while frame is not None and len(callers) < 2:
        path = Path(frame.f_code.co_filename)
        if "deployment" in path.parts and path.stem not in _PASS_ON:
            # Without the class and the comprehension: Python 3.10 knows neither.
            caller = f"{path.stem}.{frame.f_code.co_name}"
            if frame.f_code.co_name.isidentifier() and caller not in callers:
                callers.append(caller)
        frame = frame.f_back
    return ", for ".join(callers)


def call_in_turn(clients: Mapping[str, ServingClient], call: Callable[[str], Any]) -> dict[str, Any]:
    """Do what `call_each` does without threads, so that a question leads back to who asked it."""
    return {target: call(target) for target in clients}


def staged(folder: Path, size: int, number: int) -> Path:
    """Return a SavedModel with a sparse file of `size` bytes, different for every `number`."""
    directory = write_saved_model(folder, f"good {number}", with_manifest=False)
    with (directory / "variables" / "variables.data-00000-of-00001").open("r+b") as weights:
        weights.truncate(size)
    manifests.write(directory, manifests.build(directory, clock=SystemClock()))
    return directory


def deploy_two(session: GroupSession, folder: Path, model: str, size: int) -> None:
    for number in (1, 2):
        labels.deploy(session, staged(folder / model / str(number), size, number), model, Gates())


def add_records(session: GroupSession, count: int) -> None:
    """Lengthen the history of the model to `count` records."""
    documents = session.store.documents
    missing = count - len(records.history(documents, session.group.name, MODEL))
    record = records.new_record(session, MODEL, Action.VALIDATED, 1)
    for _ in range(missing):
        records.append(documents, record)


def measure(case: Case, targets: tuple[str, ...], rounds: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one case, with a store of its own."""
    root = folder / "store"
    root.mkdir(parents=True)
    group = ServingGroup("default", targets, str(root), startup_config=str(folder / "models.config"))
    counter = RpcCounter()
    with counter.installed(), open_session(open_store(str(root)), group, actor="benchmark") as session:
        deploy_two(session, folder / "staged", MODEL, case.model_bytes)
        for number in range(case.other_models):
            deploy_two(session, folder / "staged", f"other_{number}", 1000)
        add_records(session, case.records)
        counter.active = True
        with patch("tfs_deploy.deployment.session.call_each", call_in_turn):
            rollback(session, MODEL)
        counter.active = False
        seconds = timed(lambda: rollback(session, MODEL), rounds)
        bare = timed(bare_move(targets, counter.reload, session), rounds)
        answers = session.call_all(lambda client: client.metadata(MODEL, label="stable", timeout=5.0).version)
        assert len(set(answers.values())) == 1, answers
    p50, p99, bare_p50 = np.percentile(seconds, 50), np.percentile(seconds, 99), np.percentile(bare, 50)
    return {
        "case": case.name,
        "rounds": len(seconds),
        "p50_ms": float(p50) * 1000,
        "p99_ms": float(p99) * 1000,
        "bare_p50_ms": float(bare_p50) * 1000,
        "ratio_to_bare": float(p50 / bare_p50),
        "p99_to_limit": float(p99) / LIMIT_SECONDS,
        "rpcs_per_replica": {
            f"{method} by {caller}": count / len(targets) for (method, caller), count in sorted(counter.counts.items())
        },
    }


def timed(work: Callable[[], object], rounds: int) -> list[float]:
    work()
    seconds, end = list[float](), time.monotonic() + _CASE_SECONDS
    while len(seconds) < rounds and (time.monotonic() < end or len(seconds) < 2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def bare_move(targets: tuple[str, ...], reload: bytes, session: GroupSession) -> Callable[[], object]:
    """Return what sends `reload` to all replicas at once and looks at the label on each, and nothing else."""
    spec = Address(MODEL, label="stable").spec()
    look = rpc.GET_MODEL_METADATA.request_class(model_spec=spec, metadata_field=["signature_def"]).SerializeToString()
    channels = [grpc.insecure_channel(target) for target in targets]
    pool = ThreadPoolExecutor(len(targets))

    def move(channel: grpc.Channel) -> None:
        channel.unary_unary(rpc.HANDLE_RELOAD_CONFIG.path, None, None)(reload, timeout=30.0)
        channel.unary_unary(rpc.GET_MODEL_METADATA.path, None, None)(look, timeout=30.0)

    return lambda: list(pool.map(move, channels))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=100, help="rollbacks per case")
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--records", type=int, default=10_000, help="records of the long history")
    args = parser.parse_args()
    cases = (
        Case("small"),
        Case("long history", records=args.records),
        Case("large model", model_bytes=_LARGE_BYTES),
        Case("many models", other_models=OTHER_MODELS),
    )
    figures = []
    for case in cases:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfs-deploy-bench-"))
            targets = stack.enter_context(light_replicas(args.replicas))
            figures.append(measure(case, targets, args.rounds, Path(folder)))
    if args.json:
        print(json.dumps(figures))
    else:
        show(figures, args)


def show(figures: list[dict[str, Any]], args: argparse.Namespace) -> None:
    small = figures[0]
    print(f"rollback, {args.replicas} replicas; limit for p99: {LIMIT_SECONDS:g} s")
    for each in figures:
        print(
            f"  {each['case']:14}{each['rounds']:5} times  p50 {each['p50_ms']:8.1f} ms  p99 {each['p99_ms']:8.1f} ms  "
            f"p50 / bare {each['ratio_to_bare']:6.2f}  p50 / small {each['p50_ms'] / small['p50_ms']:6.2f}  "
            f"p99 / limit {each['p99_to_limit']:5.2f}"
        )
    for each in figures:
        rpcs = each["rpcs_per_replica"]
        if each is small or rpcs != small["rpcs_per_replica"]:
            print(f"RPCs per rollback and replica, {each['case']}: {sum(rpcs.values()):g}")
            for purpose, count in rpcs.items():
                print(f"  {count:6g}  {purpose}")


if __name__ == "__main__":
    main()
