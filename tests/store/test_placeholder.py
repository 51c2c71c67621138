"""The placeholder in a store on a disk: whole or not at all for a model server, and gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest

from contract.staged_versions import stage
from store.faults import FaultyFilesystem, failing
from tfs_deploy.errors import NotFound, Refused, StoreError, Unreachable
from tfs_deploy.savedmodel import placeholder
from tfs_deploy.store.local.store import LocalStore


class Killed(BaseException):
    """The process ends at this step."""


def kill() -> None:
    raise Killed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one version of the model ``m``."""
    root = tmp_path / "store"
    LocalStore(root).publish(*stage(tmp_path / "staged"), "m")
    return root


def shown(root: Path) -> bool:
    """Tell whether a model server sees the placeholder; one that it sees is whole."""
    directory = root / "m" / "0"
    if not directory.exists():
        return False
    files = placeholder.files()
    assert {path for path in files if (directory / path).read_bytes() == files[path]} == set(files)
    return True


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root / "m"))


def test_it_comes_and_goes(root: Path) -> None:
    store = LocalStore(root)
    for _ in range(2):
        store.put_placeholder("m")
        assert names(root) == ["0", "1"]
        assert shown(root)
    assert (root / "m/0").stat().st_mode & 0o777 == 0o755, "a server of another user reads it"
    for _ in range(2):
        store.remove_placeholder("m")
        assert names(root) == ["1"]


def test_one_of_another_release_is_taken_for_the_placeholder(root: Path) -> None:
    store = LocalStore(root)
    store.put_placeholder("m")
    (root / "m/0/saved_model.pb").write_bytes(b"of another release")
    store.put_placeholder("m")
    assert (root / "m/0/saved_model.pb").read_bytes() == b"of another release", "a server may read it now"
    store.remove_placeholder("m")
    assert names(root) == ["1"]


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_a_version_0_of_another_tool_is_left_alone(root: Path, kind: str) -> None:
    store, taken = LocalStore(root), root / "m/0"
    if kind == "directory":
        taken.mkdir()
        (taken / "saved_model.pb").write_bytes(b"another model")
    elif kind == "file":
        taken.write_bytes(b"another model")
    else:
        LocalStore(root).put_placeholder("m")
        taken.rename(root / "elsewhere")
        taken.symlink_to(root / "elsewhere")
    with pytest.raises(Refused, match="first version of model 'm' loads"):
        store.put_placeholder("m")
    store.remove_placeholder("m")
    assert os.path.lexists(taken)
    assert names(root) == ["0", "1"]


def test_a_model_without_a_directory_gets_none(root: Path) -> None:
    with pytest.raises(NotFound, match="'unknown'"):
        LocalStore(root).put_placeholder("unknown")
    assert not (root / "unknown").exists()


@pytest.mark.parametrize("fault", [kill, failing(errno.ENOSPC), failing(errno.EIO)], ids=["killed", "full", "away"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("putting", [True, False], ids=["put", "remove"])
def test_interrupted_at_any_step_it_is_whole_or_not_there_and_a_rerun_ends_it(
    root: Path, tmp_path: Path, putting: bool, after: bool, fault
) -> None:
    if not putting:
        LocalStore(root).put_placeholder("m")
    pristine = tmp_path / "pristine"
    shutil.copytree(root, pristine)
    points = 0
    for at in range(1, 200):
        shutil.rmtree(root)
        shutil.copytree(pristine, root)
        files = FaultyFilesystem(at, fault, after=after)
        store = LocalStore(root, files=files)
        with contextlib.suppress(Killed, StoreError, Unreachable):
            store.put_placeholder("m") if putting else store.remove_placeholder("m")
        points += files.steps >= at
        shown(root)
        again = LocalStore(root)
        assert again.versions("m") == (1,)
        again.put_placeholder("m") if putting else again.remove_placeholder("m")
        assert names(root) == (["0", "1"] if putting else ["1"])
        if files.steps < at:
            break
    assert points > 4
