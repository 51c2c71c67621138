"""The same source tree as a copy in Airflow's plugins folder and as an installed wheel, each in a clean process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "plugins" / "tfs_deploy"
OPERATORS = {
    "ExportSavedModelOperator",
    "PublishModelOperator",
    "BakeModelVersionOperator",
    "LabelModelVersionOperator",
    "LoadModelVersionOperator",
    "ValidateModelVersionOperator",
    "PromoteModelVersionOperator",
    "RollbackModelOperator",
    "RetireModelVersionsOperator",
    "ModelVersionSensor",
    "deploy_model",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the checkout gets no build directory."""
    folder = tmp_path_factory.mktemp("wheel")
    copied = folder / "checkout"
    copied.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copied / name)
    shutil.copytree(SOURCE, copied / "plugins" / "tfs_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(copied)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def other_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give every installed package but this one: links, and none of the .pth files that would bring it back."""
    folder = tmp_path_factory.mktemp("site")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and "tfs_deploy" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return folder


def probe(home: Path, *paths: Path) -> dict[str, Any]:
    """Run the probe with `paths` as the only packages and `home` as Airflow's home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    environment.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
        PYTHONPATH=os.pathsep.join(map(str, paths)),
        PYTHONDONTWRITEBYTECODE="1",
    )
    # -S: no site-packages of this interpreter, or the editable install would answer instead.
    command = [sys.executable, "-S", str(Path(__file__).with_name("probe.py"))]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_wheel_holds_the_package_and_what_it_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    written = {
        str(Path("tfs_deploy", path.relative_to(SOURCE)))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"tfs_deploy/.airflowignore", "tfs_deploy/py.typed", "tfs_deploy/serving/codec/descriptors.binpb"} <= names
    assert "tfs_deploy/savedmodel/placeholder.binpb" in names
    assert written <= names
    assert {name.split("/")[0] for name in names - written} == {f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_copy_in_the_plugins_folder(tmp_path: Path, other_packages: Path) -> None:
    copy = tmp_path / "plugins" / "tfs_deploy"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    told = probe(tmp_path, other_packages)
    assert told["package"] == str(copy)
    # Airflow runs plugin.py by its path under the name of its stem; .airflowignore keeps it from all the others.
    assert told["bare"] == ["plugin"]
    assert_works(told, other_packages)
    # A copy has no metadata from which Airflow could learn of a connection type; the connection works without.
    assert told["connection_type"] is None


def test_installed_wheel(tmp_path: Path, wheel: Path, other_packages: Path) -> None:
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=120)
    told = probe(tmp_path, target, other_packages)
    assert told["package"] == str(target / "tfs_deploy")
    assert told["bare"] == []
    assert_works(told, other_packages)
    assert_has_connection_type(told)


def assert_works(told: dict[str, Any], other_packages: Path) -> None:
    assert told["import_errors"] == {}
    assert told["plugins"].count("tfs_deploy") == 1
    assert told["worker_plugins"].count("tfs_deploy") == 1
    assert set(told["public"]) >= OPERATORS
    assert told["grpc"].startswith(str(other_packages))
    assert told["heavy"] == []


def assert_has_connection_type(told: dict[str, Any]) -> None:
    assert told["provider"]
    assert told["connection_type"] == "tfs_deploy.hooks.tf_serving.TFServingHook"
    assert set(told["fields"]) >= {"store", "group", "model_root", "mode", "startup_config", "tls"}
