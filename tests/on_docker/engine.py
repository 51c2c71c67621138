"""The Docker engine that tests run on: whether there is one, which images it has, and what a test left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tfs_deploy.containers.docker_engine import connect
from tfs_deploy.errors import TFSDeployError

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_SERVER = "tfs-deploy-model-server"
LOCAL_BASE = "tfs-deploy-local-base"
STACK = (
    MODEL_SERVER,
    "tfs-deploy-airflow",
    "tfs-deploy-airflow-export",
    "tfs-deploy",
    "tfs-deploy-gateway",
    "tfs-deploy-s3",
    "tfs-deploy-postgres",
)


def why_not(*images: str) -> str:
    """Return why tests on `images` cannot run here; empty if they can."""
    if shutil.which("docker") is None:
        return "no docker client, with which the tests state at what is left (.ci/run installs one)"
    try:
        engine = connect(seconds=30)
    except TFSDeployError as error:
        return f"{error} (.ci/run starts one)"
    engine.close()
    missing = [image for image in images if docker("image", "inspect", image, check=False).returncode]
    if missing:
        return f"no image {', '.join(missing)}: LOCAL=1 docker/stack.sh images builds them"
    return _cannot_run(images[0]) if images else ""


@cache
def _cannot_run(image: str) -> str:
    """Return why this engine runs no container with a port; in a sandbox it may lack the rights for that."""
    try:
        done = docker("run", "--rm", "--publish", "127.0.0.1::8500", "--entrypoint", "true", image, check=False)
    except subprocess.TimeoutExpired:
        return "the engine does not get a container to run within two minutes"
    return f"the engine runs no container with a port: {done.stderr.strip()}" if done.returncode else ""


def require(*images: str) -> None:
    """Skip the test, or the module, with the reason why it cannot run here."""
    reason = why_not(*images)
    if reason:
        pytest.skip(reason, allow_module_level=True)


def docker(*arguments: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the docker client: another way to the engine than the one that is tested."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds)
    assert not check or done.returncode == 0, done.stderr
    return done


def containers(*labels: str) -> list[str]:
    """Return the names of all containers, running or not, with all of `labels`, each as ``name=value``."""
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    return docker("ps", "--all", *filters, "--format", "{{.Names}}").stdout.split()


def wait_for(what: str, seen: Callable[[], bool], seconds: float = 60) -> None:
    """Return when `seen` is true; raise AssertionError that names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


def plain_environment(**more: str) -> dict[str, str]:
    """Return the environment without what configures this program or Airflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TFS_DEPLOY", "AIRFLOW"))}
    return {**kept, **more}
