"""Validation in containers of our model-server image: good, broken, deadly; by the steps and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.model_server_runner_suite import ModelServerRunnerSuite
from modelserver.models_on_disk import make_models
from on_docker.broken_models import BROKEN, broken_copy
from on_docker.engine import containers, plain_environment
from tfs_deploy.clock import SystemClock
from tfs_deploy.containers.docker_engine import connect
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.containers.ownership import PURPOSE_LABEL, RUN_LABEL, Purpose
from tfs_deploy.containers.runner import ContainerRunner, Delivery, runners_for
from tfs_deploy.deployment.offline_validation import LOAD_GATE, validate_in_each
from tfs_deploy.deployment.steps.publish import manifest_of
from tfs_deploy.errors import CorruptModel, NotFound
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import ValidationReport, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def good(shared_models: Path) -> Path:
    return shared_models / "half_plus_two_tf2_cpu" / "00000123"


@pytest.fixture(autouse=True)
def nothing_left() -> object:
    yield
    # Those of other tests, at the same time, name their run.
    assert containers(f"{PURPOSE_LABEL}={Purpose.THROW_AWAY.value}", f"{RUN_LABEL}=") == []


class TestContainerRunner(ModelServerRunnerSuite):
    @pytest.fixture(params=list(Delivery))
    def runner(self, model_server_image: str, request: pytest.FixtureRequest) -> ContainerRunner:
        return ContainerRunner(ServerOptions(image=model_server_image), delivery=request.param)


def validate(directory: Path, *images: str, delivery: Delivery = Delivery.MOUNT) -> ValidationReport:
    clock = SystemClock()
    runners = runners_for(images, ServerOptions(), delivery=delivery, connect=connect, clock=clock)
    return validate_in_each(directory, "half", Gates(), runners=runners, clock=clock)


@pytest.mark.parametrize("delivery", list(Delivery))
def test_a_good_version(model_server_image: str, good: Path, delivery: Delivery) -> None:
    report = validate(good, model_server_image, delivery=delivery)
    assert report.verdict is Verdict.PASS, report.reason()
    assert {(check.gate, check.replica) for check in report.checks} == {
        ("signature", model_server_image),
        ("prediction", model_server_image),
    }


# What the server says of a version that can only be told by loading it; of the others no server is asked.
WORDS = {
    "failing warm-up request": "absent",
    "undecodable warm-up record": "Failed to parse warmup record",
    "warm-up file is no TFRecord": "corrupted record at 0",
}


@pytest.mark.parametrize("kind", sorted(BROKEN.keys() - WORDS.keys()))
def test_a_broken_version_that_needs_no_server(good: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises((CorruptModel, NotFound)):
        validate(broken_copy(good, tmp_path / "1", kind), "no/such-image")


@pytest.mark.parametrize("kind", WORDS)
def test_a_broken_version_is_told_in_the_servers_own_words(
    model_server_image: str, good: Path, tmp_path: Path, kind: str
) -> None:
    report = validate(broken_copy(good, tmp_path / "1", kind), model_server_image)
    assert report.verdict is Verdict.FAIL
    (check,) = report.checks
    assert (check.gate, check.replica) == (LOAD_GATE, model_server_image)
    assert "ended with code 255" in check.detail
    assert WORDS[kind] in check.detail


def test_a_model_that_kills_the_server(model_server_image: str, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "modelserver" / "make_models.py"
    ends = make_models(script, tmp_path) / "ends"
    report = validate(ends, model_server_image)
    assert report.verdict is Verdict.FAIL, report.reason()
    (check,) = report.checks
    assert check.gate == LOAD_GATE
    assert "ended with code" in check.detail


def tfs_deploy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tfs_deploy.cli", *arguments],
        env=plain_environment(PYTHONPATH=os.pathsep.join(sys.path), **environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_line_on_two_images(model_server_image: str, good: Path) -> None:
    images = (model_server_image, f"{model_server_image}:latest")
    done = tfs_deploy("validate", str(good), "--image", images[0], "--image", images[1], "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] == "pass"
    assert told["replicas"] == list(images)
    assert {check["replica"] for check in told["checks"]} == set(images)


def test_the_command_line_on_a_published_version(model_server_image: str, good: Path, tmp_path: Path) -> None:
    """Only the store is asked: no serving group need be there."""
    clock = SystemClock()
    store = open_store(str(tmp_path))
    store.publish(good, manifest_of(good, clock=clock), "half")
    where = ("--store", str(tmp_path))
    done = tfs_deploy("validate", "half", "1", "--image", model_server_image, "--json", *where)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["version"], told["verdict"]) == ("half", 1, "pass")
    done = tfs_deploy("validate", "half", "2", "--image", model_server_image, *where)
    assert done.returncode == 2
    assert "2" in done.stderr


def test_the_command_line_on_what_does_not_work(model_server_image: str, good: Path, tmp_path: Path) -> None:
    broken = broken_copy(good, tmp_path / "1", "failing warm-up request")
    done = tfs_deploy("validate", str(broken), "--image", model_server_image)
    assert done.returncode == 1
    assert "load" in done.stdout
    assert "ended with code 255" in " ".join(done.stdout.split())

    done = tfs_deploy("validate", str(good), "--image", "localhost:1/absent:1")
    assert done.returncode in (1, 3)
    assert "has no image localhost:1/absent:1" in done.stderr

    done = tfs_deploy("validate", str(good), "--image", "NO REFERENCE")
    assert done.returncode == 2

    away = f"unix://{tmp_path}/absent.sock"
    done = tfs_deploy("validate", str(good), "--image", model_server_image, DOCKER_HOST=away)
    assert done.returncode == 3
    assert f"The container engine at {away} does not answer" in done.stderr


def test_reaping_by_the_command_line() -> None:
    done = tfs_deploy("reap", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)
