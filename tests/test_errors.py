"""The error tree: exit codes, and what it names to install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tfs_deploy.errors import EXTRAS, MissingExtra

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def test_the_packages_of_an_extra_are_those_of_the_project_file() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is in Python 3.11")
    import tomllib

    declared = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {extra: {re.split(r"[\[<>=!~; ]", entry, maxsplit=1)[0] for entry in declared[extra]} for extra in EXTRAS}
    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == names


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    error = MissingExtra("boto3", "s3")
    assert "'boto3' is not installed" in error.cause
    assert error.remedy == "Install it with: pip install boto3 obstore."
    assert "tfs-deploy" not in str(error)


def test_an_operator_without_airflow_names_the_package() -> None:
    script = "import sys; sys.modules['airflow'] = None; from tfs_deploy import DeployModelOperator"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "'apache-airflow' is not installed here. Install it with: pip install apache-airflow." in done.stderr
