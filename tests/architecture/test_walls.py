"""Who may import whom: the import contracts, and the rooms of the heavy and optional packages."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "plugins" / "tfs_deploy"

# Per package, the only files that may import it (patterns below the package's directory).
ROOMS = {
    "tensorflow": ["savedmodel/export/*.py", "modelserver/*.py"],
    # The demo trains: its process of its own needs Keras, and its post-processing is compiled by the export.
    "keras": ["savedmodel/export/*.py", "modelserver/*.py", "demo/digits*.py"],
    "h5py": ["savedmodel/export/keras_model.py"],
    "sklearn": ["demo/digits_training.py"],
    "airflow": [
        "operators/*.py",
        "sensors/*.py",
        "triggers/*.py",
        "hooks/*.py",
        "plugin.py",
        "links.py",
        "task_groups.py",
        "demo/*.py",
    ],
    "tensorflow_serving": [],
    "boto3": ["store/object_store/*.py", "hooks/*.py"],
    "obstore": ["store/object_store/*.py"],
    "docker": ["containers/*.py"],
    "tornado": ["gateway/*.py", "modelserver/*.py"],
    "prometheus_client": ["sync/metrics.py", "gateway/*.py", "deployment/gateway_metrics.py"],
}
# These may do so at the top of a file: Airflow runs the first ones anyway, the second is a process of its own.
AT_THE_TOP = {
    "airflow": [
        "operators/*.py",
        "sensors/*.py",
        "triggers/*.py",
        "hooks/*.py",
        "plugin.py",
        "links.py",
        "task_groups.py",
    ],
    "tensorflow": ["modelserver/*.py"],
    "keras": ["modelserver/*.py"],
    "tornado": ["gateway/*.py", "modelserver/*.py"],
    "prometheus_client": ["gateway/*.py"],
}
LIGHT = (
    "store.open",
    "serving.client",
    "savedmodel.export.exporter",
    "validation.runner",
    "deployment.modes",
    "deployment.steps.status",
    "cli.main",
    "containers.runner",
    "containers.ownership",
    "sync.run",
    "demo.digits",
    "gateway.config_file",
    "gateway.upstream.model",
    "provider_info",
)


def sources() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_there_are_sources() -> None:
    assert len(sources()) > 50


def test_import_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", sources())
def test_heavy_and_optional_packages_stay_in_their_rooms(source: str) -> None:
    tree = ast.parse((PACKAGE / source).read_text(encoding="utf-8"))
    for package in imported(tree):
        if package in ROOMS:
            assert within(source, ROOMS[package]), f"{source} imports {package}"
    for package in imported_at_the_top(tree):
        if package in ROOMS:
            assert within(source, AT_THE_TOP.get(package, [])), f"{source} imports {package} at its top"


@pytest.mark.parametrize("source", sources())
def test_imports_are_absolute(source: str) -> None:
    for node in ast.walk(ast.parse((PACKAGE / source).read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{source}, line {node.lineno}"


def test_light_rooms_stay_light_at_run_time() -> None:
    """A contract sees what files say; this sees what a process holds, dependencies of dependencies included."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {LIGHT!r}: importlib.import_module('tfs_deploy.' + name)\n"
        "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "tfs_deploy" in loaded
    assert not loaded & {*ROOMS, "botocore", "tensorboard"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level package of every import below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def imported_at_the_top(tree: ast.AST) -> Iterator[str]:
    """Yield the same for what runs when the file is imported: everything outside functions and TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(ast.Module([node], []))
        else:
            yield from imported_at_the_top(node)


def within(source: str, patterns: list[str]) -> bool:
    return any(fnmatch(source, pattern) for pattern in patterns)
