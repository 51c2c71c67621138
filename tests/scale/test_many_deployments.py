"""Many deployments at once by Celery workers with disks of their own: all end, and nothing that is live is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from s3_server import ACCESS_KEY, BUCKET, SECRET, S3Server, moto_server
from scale.celery_airflow import CeleryAirflow, Processes, Run, celery_airflow, missing_parts
from tfs_deploy.demo.model_server import child_environment, model_server
from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import open_session
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store
from tfs_deploy.validation.config import gates_from
from tfs_deploy.validation.runner import require_pass

pytestmark = [
    pytest.mark.scale,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing := missing_parts()), reason=f"not installed: {missing}"),
]
GROUP = "default"
ROOT = "/proc/self/cwd/models"
MANY = int(os.environ.get("SCALE_MODELS", "30"))
SLOTS = int(os.environ.get("SCALE_SLOTS", "12"))
# Four runs for each of five models; their shares of right answers differ.
COUNTS = (4, 9, 6, 8)
RUNS = {f"shared_{model}_{count}": count for model in range(5) for count in COUNTS}
LIMIT_SECONDS = float(os.environ.get("SCALE_SECONDS", "1500"))
# So many models are deployed one by one without Airflow, to measure what copies, loads and validations need alone.
ALONE = 3


@dataclass
class Plant:
    """Two model servers with sync agents, an S3 store and Airflow."""

    airflow: CeleryAirflow
    store: Store
    group: ServingGroup

    def labels(self, model: str) -> dict[str, int]:
        return dict(desired_state.read(self.store.documents, self.group).labels(model))

    def require_agreement(self, models: set[str]) -> None:
        """Assert that the desired state and both servers name one stable version per model."""
        for target in self.group.replicas:
            client = connect(target)
            try:
                served = {name: client.metadata(name, label=STABLE, timeout=30.0).version for name in models}
            finally:
                client.close()
            assert served == {name: self.labels(name)[STABLE] for name in models}

    def outcome(self, run: Run) -> str:
        """Return how the version of a run ended, by the record: live, was live, or the reason of its rejection."""
        model = run.conf["model"]
        history = [
            entry for entry in records.history(self.store.documents, GROUP, model) if entry.version == run.version
        ]
        if self.labels(model).get(STABLE) == run.version:
            return "live"
        if any(entry.action is Action.PROMOTED for entry in history):
            return "was live"
        rejected = [entry.reason for entry in history if entry.action is Action.REJECTED]
        return f"rejected: {rejected[-1]}" if rejected else f"{run.state}: {run.failed}"


def agent(processes: Processes, folder: Path, name: str, s3: S3Server) -> tuple[Path, Path]:
    disk = folder / name
    (disk / "models").mkdir(parents=True)
    environment = child_environment() | {
        "AWS_ENDPOINT_URL": s3.url, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
    }  # fmt: skip
    where = ("--store", f"s3://{BUCKET}/models", "--group", GROUP, "--name", name, "--model-root", "models")
    command = (sys.executable, "-m", "tfs_deploy.cli", "sync", *where, "--startup-config", str(disk / "models.config"))
    processes.start(f"agent-{name}", *command, environment=environment, cwd=disk)
    return disk, disk / "models.config"


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    singles = {f"single_{number}": 10 for number in range(MANY)}
    staged = singles | {f"alone_{number}": 10 for number in range(ALONE)} | RUNS
    write = Path(__file__).parent / "write_models.py"
    arguments = [f"{name}={count}" for name, count in staged.items()]
    subprocess.run([sys.executable, str(write), str(tmp_path / "staged"), *arguments], check=True)
    with ExitStack() as running:
        s3 = running.enter_context(moto_server())
        logs = tmp_path / "serving-log"
        logs.mkdir()
        processes = Processes(logs)
        running.callback(processes.stop)
        targets = []
        for name in ("replica-1", "replica-2"):
            disk, startup = agent(processes, tmp_path, name, s3)
            targets.append(running.enter_context(model_server(startup, logs / f"{name}.log", disk=disk)))
        uri = f"s3://{BUCKET}/models"
        extra = {"store": uri, "group": GROUP, "model_root": ROOT, "aws_conn_id": "aws_default"}
        aws = {"endpoint_url": s3.url, "region_name": "us-east-1"}
        connections = {
            "tf_serving_default": {"conn_type": "tf_serving", "host": ",".join(targets), "extra": extra},
            "aws_default": {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET, "extra": aws},
        }
        airflow = running.enter_context(celery_airflow(tmp_path / "airflow", connections, slots=SLOTS))
        for worker in ("worker-1", "worker-2"):
            shutil.copytree(tmp_path / "staged", airflow.folder / worker / "staged")
        shutil.rmtree(tmp_path / "staged")
        store = open_store(uri, s3=s3.options(session_token=""))
        yield Plant(airflow, store, ServingGroup(GROUP, tuple(targets), ROOT))


def single(number: int) -> dict[str, object]:
    return {"model": f"single_{number}", "staged": f"single_{number}", "compare": False}


def seconds_alone(plant: Plant) -> dict[str, float]:
    """Return the mean seconds of the copy, the load and the validation of a model while nothing else is deployed."""
    staged = plant.airflow.folder / "worker-1" / "staged"
    gates = gates_from({"accuracy": {"file": str(staged / "labelled.npz")}})
    seconds = dict.fromkeys(("copy", "load", "validation"), 0.0)
    with open_session(plant.store, plant.group, actor="alone") as session:
        for model in (f"alone_{number}" for number in range(ALONE)):
            began = time.monotonic()
            version = publish(session, staged / model, model).version.version
            copied = time.monotonic()
            load(session, model, version)
            wait_until_available(session, model, version)
            loaded = time.monotonic()
            require_pass(validate(session, model, version, gates))
            done = time.monotonic()
            for step, each in zip(seconds, (copied - began, loaded - copied, done - loaded), strict=True):
                seconds[step] += each / ALONE
    return seconds


def waits_for_leases(runs: list[Run]) -> str:
    """Return how often tasks waited for the lease of the group and of a model."""
    waits = Counter(re.findall(r"Waiting for (group|model) .*?, which is held by", "".join(run.log for run in runs)))
    return ", ".join(f"{subject}: {count}" for subject, count in sorted(waits.items())) or "none"


def describe(plant: Plant, runs: list[Run]) -> str:
    lines = [f"{run.conf['model']}: {run.state} {run.failed} {plant.outcome(run)}" for run in runs]
    errors = [line for run in runs if run.failed for line in run.log.splitlines() if "tfs_deploy.errors" in line]
    return "\n".join(lines + [line[:400] for line in errors[:20]])


def test_many_models_at_once(plant: Plant) -> None:
    """30 models without a retry, and the time of all against that of their copies, loads and validations alone."""
    alone_steps = seconds_alone(plant)
    alone = plant.airflow.run_all("deploy_once", [single(0)], seconds=300.0)[0]
    assert alone.state == "success", describe(plant, [alone])
    started = time.monotonic()
    runs = plant.airflow.run_all("deploy_once", [single(number) for number in range(1, MANY)], seconds=LIMIT_SECONDS)
    seconds = time.monotonic() - started
    contention = sum("Contention" in run.log for run in runs if run.state == "failed")
    print(f"{len(runs)} at once: {seconds:.0f} s, one alone {alone.seconds:.0f} s; {contention} Contention failures")
    need = len(runs) * sum(alone_steps.values())
    steps = ", ".join(f"{step} {each:.2f} s" for step, each in alone_steps.items())
    print(f"{need:.0f} s for their copies, loads and validations alone ({steps} each): ratio {seconds / need:.2f}")
    print(f"Waits for leases: {waits_for_leases(runs)}")
    print(describe(plant, runs))
    assert [run for run in runs if run.state != "success"] == []
    assert contention == 0
    plant.require_agreement({f"single_{number}" for number in range(MANY)})
    assert all(plant.store.versions(f"single_{number}") == (1,) for number in range(MANY)), "one version per bytes"


def test_many_runs_of_few_models_at_once(plant: Plant) -> None:
    """Every run ends as live, was live, or rejected as worse than a version that was live."""
    confs = [{"model": name.rpartition("_")[0], "staged": name, "compare": True} for name in RUNS]
    runs = plant.airflow.run_all("deploy_once", confs, seconds=LIMIT_SECONDS)
    print(describe(plant, runs))
    outcomes = {run.conf["staged"]: plant.outcome(run) for run in runs}
    accepted = ("live", "was live")
    assert {
        name: text for name, text in outcomes.items() if text not in accepted and "worse than version" not in text
    } == {}
    models = {str(conf["model"]) for conf in confs}
    assert {outcomes[f"{model}_{max(COUNTS)}"] for model in models} == {"live"}, "the best one is live"
    assert len({(run.conf["model"], run.version) for run in runs}) == len(runs), "one version per bytes"
    plant.require_agreement(models)


def test_a_worker_that_is_killed_costs_no_deployment(plant: Plant) -> None:
    """Retries run on the other worker."""
    killed: list[int] = []

    def kill_in_the_middle(ended: int) -> None:
        if ended >= MANY // 3 and not killed:
            plant.airflow.processes.kill("worker-1")
            killed.append(ended)

    confs = [single(number) for number in range(MANY)]
    runs = plant.airflow.run_all("deploy_with_retries", confs, seconds=LIMIT_SECONDS, meanwhile=kill_in_the_middle)
    print(f"killed a worker after {killed} runs had ended\n{describe(plant, runs)}")
    assert killed
    assert [run for run in runs if run.state != "success"] == []
    plant.require_agreement({f"single_{number}" for number in range(MANY)})
    assert all(plant.store.versions(f"single_{number}") == (1,) for number in range(MANY)), "one version per bytes"
