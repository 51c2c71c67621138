"""Every command of the README is run, against the embedded model server; every example is tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tfs_deploy.gateway.config_file import read_config
from tfs_deploy.hooks.group_settings import read_settings
from tfs_deploy.validation.config import read_gates

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Written out as a picture or for real clusters; everything else must run.
NOT_RUN = {"", "text"}


def blocks(kind: str) -> list[str]:
    return [body for name, body in BLOCK.findall(README) if name == kind]


def commands() -> list[str]:
    """Return the blocks for a shell, but those that would install or start all tests again."""
    return [block for block in blocks("bash") if not block.startswith("make ")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {name for name, _ in BLOCK.findall(README)} <= {"bash", "python"} | NOT_RUN
    assert len(commands()) >= 6


def test_every_yaml_of_the_documents_can_be_read() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "plugins").rglob("README.md"))]
    found = [body for text in texts for name, body in BLOCK.findall(text) if name == "yaml"]
    assert found
    for block in found:
        assert isinstance(yaml.safe_load(block), dict), block


def test_the_gateways_configuration_is_one(tmp_path: Path) -> None:
    document = (REPOSITORY / "plugins" / "tfs_deploy" / "gateway" / "README.md").read_text(encoding="utf-8")
    (text,) = [body for name, body in BLOCK.findall(document) if name == "yaml"]
    for name in ("server.pem", "server.key", "keys.txt"):
        (tmp_path / name).write_text("laptop:0123456789abcdef\n")
    (tmp_path / "gateway.yaml").write_text(text, encoding="utf-8")
    config = read_config(tmp_path / "gateway.yaml")
    assert set(config.models) == {"digits"}


def test_links_lead_somewhere() -> None:
    documents = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    for document in (*documents, *(REPOSITORY / "plugins").rglob("README.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document}: {link}"


def test_make_targets_exist() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    lines = [line for block in blocks("bash") if block.startswith("make ") for line in block.split("\n") if line]
    targets = {line.removeprefix("make ") for line in lines} | set(re.findall(r"`make ([\w-]+)`", README))
    assert targets >= {"demo", "test", "bench", "install"}
    for target in sorted(targets):
        done = subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_files_that_are_named_exist() -> None:
    made = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    for name in re.findall(r"`((?:plugins|dags|docker|benchmarks|tests)/[\w/.]*)`", README):
        assert (REPOSITORY / name).exists() or name in made, name
    for room in re.findall(r"^\| `([a-z/_ ]+)` \|", README.split("## Rooms")[1], re.MULTILINE):
        for name in room.split():
            assert (REPOSITORY / "plugins" / "tfs_deploy" / name).is_dir(), name


def test_the_connection_is_one() -> None:
    (block,) = [block for block in blocks("bash") if "AIRFLOW_CONN" in block]
    told = json.loads(block.split("'", 1)[1].rsplit("'", 1)[0])
    settings = read_settings("tf_serving_default", host=told["host"], port=None, extra=told["extra"])
    assert settings.targets() == ("serving-0:8500", "serving-1:8500")
    assert settings.extra.group == "production"


def test_the_gates_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"cat > gates.yaml <<'END'\n(.*?)^END$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "gates.yaml").write_text(text, encoding="utf-8")
    gates = read_gates(tmp_path / "gates.yaml")
    assert gates.options["accuracy"].floor == 0.8


@pytest.mark.airflow
def test_the_dag_is_one(tmp_path: Path) -> None:
    (source,) = blocks("python")
    (tmp_path / "readme_dag.py").write_text(source, encoding="utf-8")
    code = (
        "import runpy, sys\n"
        "from airflow.sdk import DAG\n"
        "found = [one for one in runpy.run_path(sys.argv[1]).values() if isinstance(one, DAG)]\n"
        "print(sorted(found[0].task_ids))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment["AIRFLOW_HOME"] = str(tmp_path / "airflow")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "readme_dag.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    tasks = ["deploy_model.load", "deploy_model.promote", "deploy_model.publish", "deploy_model.retire"]
    assert done.stdout.splitlines()[-1] == str([*tasks, "deploy_model.validate", "export"])


@pytest.mark.tensorflow
def test_the_commands_work_in_their_order(tmp_path: Path) -> None:
    # The README's port is TF Serving's own; here it may be taken.
    script = "\n".join(["set -euo pipefail", *commands()]).replace("8500", str(free_port()))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TFS_DEPLOY")}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    # A session of its own: the model server that the script starts must not outlive it when something fails.
    done = subprocess.Popen(
        ["bash", "-c", script + "\nwait\n"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = done.communicate(timeout=560)
    finally:
        if done.poll() is None or done.returncode != 0:
            end_group(done.pid)
    assert done.returncode == 0, output
    for told in (
        "Version 1 of digits is live",
        "refused with exit code 1",
        "below the floor 0.8000",
        "Version 2 of digits answered `stable`",
    ):
        assert told in output, output
    # The start-up file names the labels as they were left.
    config = (tmp_path / "models.config").read_text(encoding="utf-8")
    assert re.search(r'key: "stable"\s+value: 2', config), config


def end_group(leader: int) -> None:
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        return
