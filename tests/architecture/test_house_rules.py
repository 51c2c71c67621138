"""What the repository holds, how big its files are, and what must not be written in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "plugins" / "tfs_deploy"

MUST = {"dags", "docs", "plugins", "tests", "docker", "pyproject.toml", "README.md", "CONTRIBUTING.md"}
MAY = {"Makefile", "benchmarks", "constraints.txt", "LICENSE"}
# Written by tools, and ignored by git.
IGNORED = {"build", "dist"}
MAX_LINES = 400
MAX_OPERATOR_LINES = 150
# Put together here, so that this file does not find itself.
MACHINE = re.compile(
    "|".join(
        (
            "/" + r"(work|root|Users)/",
            "/" + r"home/[a-z]",
            "/" + r"opt/(wheels|pypi)",
            r"(extra-|-)" + r"index-url",
            r"find-" + r"links",
            r"trusted-" + r"host",
            r"https?://[^\s\"'>]*(artifactory|nexus|devpi|registry|mirror)",
        )
    )
)
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")) + r")\b")


def written_files() -> list[Path]:
    """Return the text files that a person wrote: nothing that git ignores."""
    folders = [REPOSITORY / name for name in ("dags", "docs", "plugins", "tests", "docker", "benchmarks", ".ci")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found += [path for path in REPOSITORY.iterdir() if path.is_file() and path.name != "LICENSE"]
    return sorted(path for path in found if "__pycache__" not in path.parts and path.suffix not in {".binpb", ".pyc"})


def python_files() -> list[Path]:
    return [path for path in written_files() if path.suffix == ".py"]


def of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_top_level_is_as_designed() -> None:
    names = {path.name for path in REPOSITORY.iterdir() if not path.name.startswith(".")} - IGNORED
    assert names >= MUST
    assert names <= MUST | MAY
    assert [path.name for path in (REPOSITORY / "plugins").iterdir() if path.name != "__pycache__"] == ["tfs_deploy"]


@pytest.mark.parametrize("path", [path for path in python_files() if PACKAGE in path.parents], ids=of)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < (MAX_OPERATOR_LINES if path.parent.name == "operators" else MAX_LINES)


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in python_files()} | {path.parent.name for path in python_files()}
    assert not names & {"utils", "util", "common", "helpers", "helper", "misc"}


def test_no_module_is_named_like_a_dependency() -> None:
    """A loader that puts files into `sys.modules` by their stem would replace the dependency."""
    taken = {"grpc", "docker", "boto3", "tornado", "numpy", "yaml", "rich", "typer", "types", "logging", "airflow"}
    assert not {path.stem for path in python_files()} & taken


@pytest.mark.parametrize("path", written_files(), ids=of)
def test_no_address_of_one_machine_and_nothing_unfinished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not MACHINE.search(text), MACHINE.search(text)
    assert not UNFINISHED.search(text), UNFINISHED.search(text)


def test_airflow_is_told_to_run_the_plugin_file_only() -> None:
    lines = (PACKAGE / ".airflowignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["*", "!plugin.py"]


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines() if line]
    pins = [line for line in lines if not line.startswith("#")]
    form = re.compile(r"[a-z0-9][a-z0-9.\-]*==[0-9][0-9A-Za-z.]*( ; python_version [<>=]+ \"3\.1\d\")?")
    assert len(pins) > 100
    assert [line for line in pins if not form.fullmatch(line)] == []
    assert not any("tfs-deploy" in line for line in pins)
