"""Reading what is to be published."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from contract.staged_versions import stage
from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel.manifest import FileEntry, Manifest
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.staged import StagedFiles


@pytest.fixture
def slow_file(tmp_path: Path) -> tuple[Path, FileEntry]:
    """A file that gives less than it is asked for, as some network file systems do."""
    path, pieces = tmp_path / "slow", [b"%04d" % number for number in range(50)]
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as stream:
            for piece in pieces:
                stream.write(piece)
                threading.Event().wait(0.005)

    threading.Thread(target=write, daemon=True).start()
    return path, FileEntry("slow", 200, hashlib.sha256(b"".join(pieces)).hexdigest())


def files_below(folder: Path, entry: FileEntry) -> StagedFiles:
    return StagedFiles(folder, Manifest("", (entry,), {}, "", {}, ""), None)


def test_parts_have_one_size_however_little_comes_at_a_time(slow_file: tuple[Path, FileEntry]) -> None:
    path, entry = slow_file
    parts = files_below(path.parent, entry).blocks(entry, size=64, keep=True)
    assert [len(part) for part in parts] == [64, 64, 64, 8]


def test_a_small_file_is_whole_however_little_comes_at_a_time(slow_file: tuple[Path, FileEntry]) -> None:
    path, entry = slow_file
    assert len(files_below(path.parent, entry).content(entry)) == 200


def test_a_manifest_too_large_to_be_read_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfs_deploy.store.staged.MAX_MANIFEST_BYTES", 500)
    store = LocalStore(tmp_path / "store")
    with pytest.raises(InvalidInput, match="it lists 5 files"):
        store.publish(*stage(tmp_path / "staged"), "m")
    assert store.versions("m") == ()
