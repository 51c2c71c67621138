"""The whole stack of docker/compose.yaml: up, a model promoted through Airflow's REST API, a prediction, down."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from on_docker.engine import REPOSITORY, STACK, containers, docker, plain_environment, require, wait_for
from tfs_deploy.demo import digits

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]

# As the README tells it.
WORK = "/opt/airflow/tfs_deploy/first"
CONF = {
    "model": "digits",
    "checkpoint": f"{WORK}/model.keras",
    "postprocess": "tfs_deploy.demo.digits:answer",
    "samples": f"{WORK}/samples.npz",
    "golden": 4,
}


class Stack:
    """A stack of its own name, ports and secrets."""

    def __init__(self, folder: Path) -> None:
        self.project = f"tfs-deploy-test-{uuid.uuid4().hex[:8]}"
        self._env = folder / "stack.env"
        self._airflow, self._gateway = _free_port(), _free_port()
        self._token = ""

    def run(self, *command: str, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        """Run docker/stack.sh; raise AssertionError with what it said if it failed."""
        environment = plain_environment(
            LOCAL="1",
            COMPOSE_PROJECT_NAME=self.project,
            ENV_FILE=str(self._env),
            AIRFLOW_PORT=str(self._airflow),
            GATEWAY_PORT=str(self._gateway),
        )
        command = (str(REPOSITORY / "docker" / "stack.sh"), *command)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done

    def secret(self, name: str) -> str:
        return dict(line.split("=", 1) for line in self._env.read_text().splitlines() if "=" in line)[name]

    def log_in(self) -> None:
        """Get a token for Airflow's API."""
        answer = self.airflow("POST", "/auth/token", {"username": "admin", "password": self.secret("ADMIN_PASSWORD")})
        self._token = answer["access_token"]

    def airflow(self, method: str, path: str, body: Any = None) -> Any:
        """Ask Airflow's API."""
        return self._ask(f"http://127.0.0.1:{self._airflow}{path}", method, body, self._token)

    def gateway(self, path: str, body: Any) -> Any:
        """Ask the gateway."""
        return self._ask(f"http://127.0.0.1:{self._gateway}{path}", "POST", body, self.secret("GATEWAY_KEY"))

    def _ask(self, url: str, method: str, body: Any, token: str) -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def left(self) -> dict[str, str]:
        """Return what the engine still has of it."""
        label = f"label=com.docker.compose.project={self.project}"
        return {
            what: docker(*command, "--filter", label, "--quiet").stdout
            for what, command in {
                "containers": ("ps", "--all"),
                "volumes": ("volume", "ls"),
                "networks": ("network", "ls"),
            }.items()
        }


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    require(*STACK)
    stack = Stack(tmp_path)
    try:
        stack.run("up")
        yield stack
    except BaseException:
        print(subprocess.run(["docker", "ps", "--all"], capture_output=True, text=True).stdout)
        for name in containers(f"com.docker.compose.project={stack.project}"):
            said = docker("logs", "--tail", "40", name, check=False)
            print(name, said.stdout, said.stderr, sep="\n")
        raise
    finally:
        stack.run("down")
    assert stack.left() == {"containers": "", "volumes": "", "networks": ""}


def test_from_up_to_a_prediction(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.airflow("GET", "/api/v2/dags")
    stack.log_in()
    wait_for("the DAG", lambda: _has_dag(stack), 180)
    stack.run("exec", "-T", "airflow-scheduler", "python", "-m", "tfs_deploy.demo.digits", WORK, seconds=300)

    stack.airflow("PATCH", "/api/v2/dags/deploy_checkpoint", {"is_paused": False})
    run = stack.airflow("POST", "/api/v2/dags/deploy_checkpoint/dagRuns", {"logical_date": None, "conf": CONF})
    path = f"/api/v2/dags/deploy_checkpoint/dagRuns/{run['dag_run_id']}"
    wait_for("the run", lambda: stack.airflow("GET", path)["state"] in ("success", "failed"), 600)
    tasks = stack.airflow("GET", f"{path}/taskInstances")["task_instances"]
    assert {task["task_id"]: task["state"] for task in tasks} == {
        "export": "success",
        "deploy.publish": "success",
        "deploy.load": "success",
        "deploy.validate": "success",
        "deploy.promote": "success",
    }

    images, labels = digits.held_out()
    wait_for("the gateway", lambda: _answers(stack, images[0]), 60)
    items = [{"b64": _picture(image)} for image in images[:40]]
    answer = stack.gateway("/v1/models/digits", {"items": items})
    assert (answer["model"], answer["version"], answer["label"]) == ("digits", 1, "stable")
    right = sum(result["label"] == str(label) for result, label in zip(answer["results"], labels[:40], strict=True))
    assert right >= 30, f"{right} of 40 digits"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack._ask(f"http://127.0.0.1:{stack._gateway}/v1/models/digits", "POST", {"item": items[0]}, "")


def test_no_secret_is_in_an_image() -> None:
    require(*STACK)
    for image in STACK:
        told = docker("image", "inspect", image, "--format", "{{json .Config.Env}} {{.Config.User}}").stdout
        environment, _, user = told.strip().rpartition(" ")
        names = {entry.partition("=")[0] for entry in json.loads(environment)}
        assert not {name for name in names if any(word in name for word in ("PASSWORD", "SECRET", "KEY"))}, image
        assert user not in ("", "root", "0"), image


def _has_dag(stack: Stack) -> bool:
    try:
        stack.airflow("GET", "/api/v2/dags/deploy_checkpoint")
    except urllib.error.HTTPError:
        return False
    return True


def _answers(stack: Stack, image: np.ndarray) -> bool:
    try:
        stack.gateway("/v1/models/digits", {"item": {"b64": _picture(image)}})
    except urllib.error.HTTPError:
        return False
    return True


def _picture(image: np.ndarray) -> str:
    """Return a digit (0 paper, 16 ink) as a PNG of dark ink on light paper."""
    pixels = (255 - image[:, :, 0] / 16 * 255).round().astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels, "L").save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def _free_port() -> int:
    """Return a port outside of the range that the kernel gives to others, because it is used a minute later."""
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
