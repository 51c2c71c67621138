"""From the start of a container to the first answered Predict, and how soon a broken version has its verdict.

Run: python benchmarks/container_start.py [--json] [--runs N] [--image IMAGE] [--model DIR]. Needs a Docker engine with
the image (LOCAL=1 docker/stack.sh images; `--image tensorflow/serving:2.20.0` where it can be pulled) and, for a model,
../shared/models beside the checkout or DIR, a SavedModel. The start is split into engine (create and start), server
(until its first load begins), load, and first answer (ports, channel, Predict). Peer: the same server as a process of
this machine, without a container. Verdicts on each kind of contract 20.7: by validation, which tells before a server
starts what can be seen in the files; and by the server alone, as if those checks did not exist. Aim: at most 10 s each
(the server's default of five retries, one a minute, takes five minutes).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "tests"))

from on_docker.broken_models import BROKEN, broken_copy  # noqa: E402
from tfs_deploy.clock import SystemClock  # noqa: E402
from tfs_deploy.containers.docker_engine import DockerEngine, connect  # noqa: E402
from tfs_deploy.containers.model_server import ModelServerContainer  # noqa: E402
from tfs_deploy.containers.options import ServerOptions  # noqa: E402
from tfs_deploy.containers.runner import ContainerRunner  # noqa: E402
from tfs_deploy.deployment.offline_validation import validate_directory  # noqa: E402
from tfs_deploy.errors import TFSDeployError  # noqa: E402
from tfs_deploy.serving.client import connect as connect_to_server  # noqa: E402
from tfs_deploy.serving.runner import EmbeddedRunner, ModelServerRunner  # noqa: E402
from tfs_deploy.validation.config import Gates  # noqa: E402

AIM_SECONDS = 10.0
MODEL = REPOSITORY.parent / "shared" / "models" / "half_plus_two_tf2_cpu" / "00000123"
# What TF Serving and the embedded server say, whichever comes first.
LOAD_BEGINS = re.compile(r"Loading servable version|Reserved resources|Approving load|Reading SavedModel from")
LOAD_ENDS = re.compile(r"Successfully loaded servable version")
PARTS = ("engine", "server", "load", "first answer", "all")


def first_answer(runner: ModelServerRunner, model: Path) -> float:
    """Return the seconds from nothing to an answered Predict."""
    begin = time.monotonic()
    with runner.serve(model, "half", 1) as target:
        client = connect_to_server(target)
        try:
            client.predict("half", {"x": np.zeros(1, np.float32)}, version=1, timeout=30)
        finally:
            client.close()
        return time.monotonic() - begin


def container_start(engine: DockerEngine, image: str, model: Path) -> dict[str, float]:
    """Return the seconds of each part of one start."""
    started: list[ModelServerContainer] = []
    runner = ContainerRunner(ServerOptions(image=image), connect=connect, on_start=started.append)
    begin, before = time.monotonic(), time.time()
    with runner.serve(model, "half", 1) as target:
        client = connect_to_server(target)
        client.predict("half", {"x": np.zeros(1, np.float32)}, version=1, timeout=30)
        everything = time.monotonic() - begin
        client.close()
        moments = _moments(engine, started[0].container)
    running, begins, ends = (moment - before for moment in moments)
    return dict(zip(PARTS, (running, begins - running, ends - begins, everything - ends, everything), strict=True))


def _moments(engine: DockerEngine, container: str) -> tuple[float, float, float]:
    """Return when the container ran, the load began, and the load ended, in UNIX seconds."""
    data = engine._api.inspect_container(container)
    lines = engine._api.logs(container, timestamps=True).decode("utf-8", "replace").splitlines()
    found = [next(line for line in lines if sign.search(line)) for sign in (LOAD_BEGINS, LOAD_ENDS)]
    return (_moment(data["State"]["StartedAt"]), *(_moment(line.split()[0]) for line in found))  # type: ignore[return-value]


def _moment(text: str) -> float:
    # Nanoseconds, which datetime does not read.
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() + float(f"0.{fraction or 0}")


def verdict(runner: ModelServerRunner, directory: Path) -> tuple[float, str]:
    """Return how long the verdict on `directory` took, and its beginning."""
    begin = time.monotonic()
    try:
        told = validate_directory(directory, "half", Gates(), runner=runner, clock=SystemClock()).reason()
    except TFSDeployError as error:
        told = f"{type(error).__name__}: {error.cause}"
    return time.monotonic() - begin, told


def verdict_of_server(runner: ModelServerRunner, directory: Path) -> tuple[float, str]:
    """Return how long it took until the server itself refused `directory` or a Predict on it, and its words."""
    begin = time.monotonic()
    try:
        with runner.serve(directory, "half", 1) as target:
            client = connect_to_server(target)
            try:
                client.predict("half", {"x": np.zeros(1, np.float32)}, version=1, timeout=30)
            finally:
                client.close()
        told = "nothing is wrong with it"
    except TFSDeployError as error:
        told = f"{type(error).__name__}: {error.cause}"
    return time.monotonic() - begin, told


def median(measure: Callable[[], dict[str, float]], runs: int) -> dict[str, float]:
    """Return the median of each figure of `runs` measurements, after one that warms the disk cache."""
    measure()
    samples = [measure() for _ in range(runs)]
    return {name: round(statistics.median(sample[name] for sample in samples), 2) for name in samples[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--image", default="tfs-deploy-model-server")
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    # Each server that ends would show its log.
    logging.disable()
    try:
        engine = connect()
        engine.require_image(arguments.image)
        if not arguments.model.is_dir():
            raise SystemExit(f"There is no SavedModel {arguments.model}.")
    except TFSDeployError as error:
        print(f"Not measured: {error}")
        return
    show(measure(engine, arguments), as_json=arguments.json)


def measure(engine: DockerEngine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    peer = EmbeddedRunner()
    parts = median(lambda: container_start(engine, arguments.image, arguments.model), arguments.runs)
    process = median(lambda: {"all": first_answer(peer, arguments.model)}, arguments.runs)["all"]
    in_container = ContainerRunner(ServerOptions(image=arguments.image), connect=connect)
    verdicts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(BROKEN):
            directory = broken_copy(arguments.model, Path(folder) / str(number), kind)
            seconds, told = verdict(in_container, directory)
            alone, words = verdict_of_server(in_container, directory)
            process, _ = verdict_of_server(peer, directory)
            measured = {"seconds": seconds, "server": alone, "process": process}
            verdicts[kind] = {name: round(value, 2) for name, value in measured.items()}
            verdicts[kind] |= {"told": told, "words": words}
    return {"start": parts, "process": process, "ratio": round(parts["all"] / process, 2), "verdicts": verdicts}


def show(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print `figures`."""
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in figures["start"].items())
    print(f"container to first Predict: {told}")
    print(f"the same server as a process: {figures['process']:.2f} s; container / process {figures['ratio']:.2f}")
    for kind, found in figures["verdicts"].items():
        slow = "" if max(found["seconds"], found["server"]) <= AIM_SECONDS else f"  ABOVE {AIM_SECONDS:.0f} s"
        print(
            f"{kind:<28} validation {found['seconds']:5.2f} s, server alone {found['server']:5.2f} s, "
            f"without a container {found['process']:5.2f} s{slow}"
        )
        print(f"    {found['told'][-150:]}\n    {found['words'][-150:]}")


if __name__ == "__main__":
    main()
