"""A download of large files: pieces in any order, one file whole or none, whatever breaks on the way."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.faults import FaultyFilesystem, die, failing, in_child
from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import CorruptModel, StoreError, Unreachable
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry, Manifest
from tfs_deploy.serving.codec import messages
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.download.target import DownloadTarget
from tfs_deploy.store.local.filesystem import Filesystem

LARGE = "variables/large"


def stage(directory: Path, size: int = 1000) -> Manifest:
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    for name in (LARGE, "variables/other"):
        (directory / name).write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    (directory / "variables/small").write_bytes(b"small")
    return manifests.build(directory, clock=SystemClock())


class Files:
    """A source that gives the files of a directory, changed as a test says."""

    def __init__(self, directory: Path, change: Callable[[FileEntry, int, bytes], bytes] | None = None) -> None:
        self.directory = directory
        self.asked: list[tuple[str, int, int]] = []
        self._change = change or (lambda entry, start, data: data)

    def begin(self, entry: FileEntry) -> None:
        return None

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[bytes]:
        self.asked.append((entry.path, start, end))
        data = (self.directory / entry.path).read_bytes()[start:end]
        data = self._change(entry, start, data)
        for at in range(0, len(data), 7):
            yield data[at : at + 7]


class WholeFiles(Files):
    """A source that gives no pieces."""

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[bytes]:
        if (start, end) != (0, entry.size):
            raise NoPieces(entry.path)
        yield from super().blocks(entry, start, end)


def land(manifest: Manifest, source: Files, target: Path, files: Filesystem | None = None, **more) -> None:
    """Bring the version; what has more than 100 bytes comes in pieces of 64."""
    target.mkdir(exist_ok=True)
    download = DownloadTarget(
        manifest, source, where="the version", files=files, large_bytes=100, piece_bytes=64, **more
    )
    download.fill(target)


@pytest.mark.parametrize("kind", [Files, WholeFiles])
@pytest.mark.parametrize("size", [101, 128, 129, 1000])
def test_pieces_make_the_file(tmp_path: Path, kind: type[Files], size: int) -> None:
    manifest = stage(tmp_path / "staged", size)
    done: list[int] = []
    land(manifest, kind(tmp_path / "staged"), tmp_path / "target", progress=done.append)
    manifests.verify(tmp_path / "target", manifest)
    assert manifests.read(tmp_path / "target") == manifest
    assert done == sorted(done)
    assert done[-1] == manifest.total_bytes


@settings(max_examples=30, deadline=None)
@given(size=st.integers(101, 700), seed=st.randoms(use_true_random=False))
def test_the_order_in_which_pieces_end_does_not_matter(tmp_path_factory, size: int, seed) -> None:
    folder = tmp_path_factory.mktemp("order")
    manifest = stage(folder / "staged", size)
    starts = list(range(0, size, 64))
    order = seed.sample(starts, len(starts))
    ended = {start: threading.Event() for start in starts}

    def in_order(entry: FileEntry, start: int, data: bytes) -> bytes:
        place = order.index(start) if entry.path == LARGE else 0
        if place:
            assert ended[order[place - 1]].wait(30)
        if entry.path == LARGE:
            ended[start].set()
        return data

    land(manifest, Files(folder / "staged", in_order), folder / "target", pieces=2 * len(starts))
    manifests.verify(folder / "target", manifest)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"!", lambda data: b""])
@pytest.mark.parametrize("at", [0, 64, 960])
def test_a_piece_that_is_damaged_once_costs_another_try_and_always_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], at: int
) -> None:
    manifest = stage(tmp_path / "staged")
    broken: list[int] = []

    def once(entry: FileEntry, start: int, data: bytes) -> bytes:
        if (entry.path, start) != (LARGE, at) or broken:
            return data
        broken.append(start)
        return damage(data)

    done: list[int] = []
    land(manifest, Files(tmp_path / "staged", once), tmp_path / "target", progress=done.append)
    manifests.verify(tmp_path / "target", manifest)
    assert broken == [at]

    def always(entry: FileEntry, start: int, data: bytes) -> bytes:
        return damage(data) if (entry.path, start) == (LARGE, at) else data

    with pytest.raises(CorruptModel, match=LARGE):
        land(manifest, Files(tmp_path / "staged", always), tmp_path / "again")
    assert not (tmp_path / "again" / MANIFEST_PATH).exists()
    assert not (tmp_path / "again" / LARGE).exists()


def test_more_than_was_asked_for_does_not_reach_the_next_piece(tmp_path: Path) -> None:
    manifest = stage(tmp_path / "staged")
    source = Files(tmp_path / "staged", lambda entry, start, data: data + b"x" * (64 if len(data) == 64 else 0))
    land(manifest, source, tmp_path / "target")
    manifests.verify(tmp_path / "target", manifest)


@pytest.mark.parametrize("at", [0, 512, 960])
def test_an_error_in_a_piece_ends_everything_and_the_next_run_fetches_what_is_missing(tmp_path: Path, at: int) -> None:
    manifest = stage(tmp_path / "staged")

    def fail(entry: FileEntry, start: int, data: bytes) -> bytes:
        if (entry.path, start) == (LARGE, at):
            raise Unreachable("The network is away.", "Wait.")
        return data

    with pytest.raises(Unreachable, match="network"):
        land(manifest, Files(tmp_path / "staged", fail), tmp_path / "target")
    assert not (tmp_path / "target" / MANIFEST_PATH).exists()
    assert not (tmp_path / "target" / LARGE).exists()
    source = Files(tmp_path / "staged")
    land(manifest, source, tmp_path / "target")
    manifests.verify(tmp_path / "target", manifest)


def test_what_is_there_already_is_not_asked_for_again(tmp_path: Path) -> None:
    manifest = stage(tmp_path / "staged")
    land(manifest, Files(tmp_path / "staged"), tmp_path / "target")
    (tmp_path / "target" / "variables/other").write_bytes(bytes(1000))
    source = Files(tmp_path / "staged")
    land(manifest, source, tmp_path / "target")
    assert {path for path, _, _ in source.asked} == {"variables/other"}
    manifests.verify(tmp_path / "target", manifest)


def test_an_error_in_the_progress_callback_cancels_the_download(tmp_path: Path) -> None:
    manifest = stage(tmp_path / "staged")

    class Enough(Exception):
        pass

    def count(done: int) -> None:
        if done > 300:
            raise Enough

    with pytest.raises(Enough):
        land(manifest, Files(tmp_path / "staged"), tmp_path / "target", progress=count)
    assert not (tmp_path / "target" / MANIFEST_PATH).exists()


@pytest.mark.faults
def test_any_step_may_fail_or_be_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # processes die here, not machines
    manifest = stage(tmp_path / "staged", 150)
    source = Files(tmp_path / "staged")
    counted = FaultyFilesystem()
    land(manifest, source, tmp_path / "counted", counted)
    assert counted.steps > 30
    for at in range(1, counted.steps + 1):
        failed, killed = tmp_path / f"failed-{at}", tmp_path / f"killed-{at}"
        with pytest.raises(StoreError, match="No space left"):
            land(manifest, source, failed, FaultyFilesystem(at, failing(errno.ENOSPC)))
        files = FaultyFilesystem(at, die)
        assert in_child(lambda target=killed, files=files: land(manifest, source, target, files)) == -9
        for target in (failed, killed):
            # The manifest says that the rest is complete, so it must be.
            if (target / MANIFEST_PATH).exists() and at < counted.steps - 2:
                manifests.verify(target, manifest)
            land(manifest, source, target)
            manifests.verify(target, manifest)
    tell(f"download: failed at {counted.steps} steps and killed at as many, 0 violations")
