"""The documents name options that exist, and their examples are ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.serving.flags import FLAGS

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
OWN = (REPOSITORY / "plugins" / "tfs_deploy" / "containers" / "README.md").read_text(encoding="utf-8")
TABLE = README.split("| `docker run` | `server` |")[1].split("\n\n")[0]


def options(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, bool]:
    """Return the names of all options, and whether each one is a group of others."""
    found: dict[str, bool] = {}
    for field in msgspec.structs.fields(kind):
        kinds = [field.type, *getattr(field.type, "__args__", ())]
        groups = [one for one in kinds if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        found[prefix + field.name] = bool(groups)
        for group in groups:
            found |= options(group, f"{prefix}{field.name}.")
    return found


def test_every_option_is_in_the_table_and_nothing_else() -> None:
    rows = [row.split("|")[2] for row in TABLE.strip().splitlines()[1:]]
    named = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    leaves = {name for name, group in options(ServerOptions).items() if not group}
    assert named == leaves


def test_flags_in_the_table_are_the_servers_or_dockers() -> None:
    docker = {
        "name", "mount", "gpus", "memory", "cpus", "network", "user", "restart", "stop", "init", "rm"
    }  # fmt: skip
    for flag in re.findall(r"--([a-z_]+)", TABLE):
        assert flag in FLAGS or flag in docker, flag


def test_the_examples_name_fields_that_exist() -> None:
    code = re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.airflow
def test_the_dag_is_one(tmp_path: Path) -> None:
    source = re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)[0]
    source += "\nfrom tfs_deploy.containers.options import options_from\noptions_from(start.server)\n"
    source += "options_from(validate_images.server)\nprint(sorted(dag.task_ids), stop.is_teardown, start.is_setup)\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**environment, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['start', 'stop', 'validate', 'validate_images'] True True"
