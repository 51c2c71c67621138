"""The server that watches the crash tests sees what it is there to see."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from contract.staged_versions import stage
from looking_on import looking_on
from tfs_deploy.savedmodel import manifest as manifests
from watching_server import WatchingServer


def show(root: Path, version: int) -> Path:
    staged, manifest = stage(root / f"staged-{version}", str(version).encode())
    manifests.write(staged, manifest)
    (root / "m").mkdir(exist_ok=True)
    return staged.rename(root / "m" / str(version))


def test_whole_versions_come_and_go(tmp_path: Path) -> None:
    server = WatchingServer(tmp_path, stable={"m": (1,)})
    server.expect("m")  # no base path yet
    show(tmp_path, 1)
    server.expect("m", 1)
    gone = show(tmp_path, 2)
    server.expect("m", 1, 2)
    shutil.rmtree(gone)
    server.expect("m", 1)
    assert server.looks == 4


@pytest.mark.parametrize("missing", ["saved_model.pb", "variables/variables.index", manifests.MANIFEST_PATH])
def test_a_version_that_is_not_whole_is_a_violation(tmp_path: Path, missing: str) -> None:
    server = WatchingServer(tmp_path)
    (show(tmp_path, 1) / missing).unlink()
    server.look()
    assert len(server.violations) == 1
    assert server.available() == []


def test_bytes_that_are_wrong_are_a_violation(tmp_path: Path) -> None:
    server = WatchingServer(tmp_path)
    (show(tmp_path, 1) / "variables/variables.index").write_bytes(b"xedni")
    with pytest.raises(AssertionError, match="DATA_LOSS"), server.watching():
        pass


def test_a_stable_version_that_goes_is_a_violation(tmp_path: Path) -> None:
    server = WatchingServer(tmp_path, stable={"m": (1,)})
    first = show(tmp_path, 1)
    server.look()
    server.check()
    shutil.rmtree(first)
    server.look()
    with pytest.raises(AssertionError, match="no longer answers"):
        server.check()


def test_a_watcher_that_fails_is_seen() -> None:
    seen = threading.Event()

    def fail() -> None:
        seen.set()
        raise OSError("no such look")

    with pytest.raises(AssertionError, match="no such look"), looking_on(fail, pause=0.001, name="watcher"):
        assert seen.wait(60)
