"""Many processes at once on one store in a directory, and a reader that is another user."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from contract.staged_versions import check_whole, stage, watching
from contract.state_documents_suite import Counter, increment
from store.faults import in_child
from store.work import increment_often, publish
from tfs_deploy.errors import Contention, StoreError
from tfs_deploy.store.local.store import LocalStore

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that other users may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="tfs-deploy-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_fifty_publishers_at_once_get_fifty_versions(root: Path, tmp_path: Path) -> None:
    models = [stage(tmp_path / str(index), str(index).encode()) for index in range(50)]
    with watching(lambda: LocalStore(root), "m"), ProcessPoolExecutor(10, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(publish, root, *model) for model in models]
        published = [job.result() for job in jobs]
    assert all(one.created for one in published)
    assert sorted(one.version.version for one in published) == list(range(1, 51))
    assert check_whole(LocalStore(root), "m") == tuple(range(1, 51))
    for one, (_, manifest) in zip(published, models, strict=True):
        assert LocalStore(root).manifest("m", one.version.version) == manifest


def test_publishers_of_the_same_bytes_get_one_version(root: Path, tmp_path: Path) -> None:
    models = [stage(tmp_path / str(index)) for index in range(12)]
    with watching(lambda: LocalStore(root), "m"), ProcessPoolExecutor(6, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(publish, root, *model) for model in models]
        published = [job.result() for job in jobs]
    assert {one.version.version for one in published} == {1}
    assert sum(one.created for one in published) == 1
    assert os.listdir(root / "m") == ["1"]


def test_no_change_of_a_document_is_lost_among_processes(root: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(increment_often, root, 25) for _ in range(4)]
        for job in jobs:
            job.result()
    assert increment(LocalStore(root).documents, "counter") == Counter(101)


def test_a_publish_that_waits_too_long_for_the_same_bytes_is_refused(root: Path, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    refused: list[Contention] = []

    def publish_the_same(_: int) -> None:
        if not refused:
            with pytest.raises(Contention, match="held by another process") as caught:
                LocalStore(root, publish_wait_seconds=0.05).publish(*staged, "m")
            refused.append(caught.value)

    assert LocalStore(root).publish(*staged, "m", progress=publish_the_same).created
    assert "run the same step again" in refused[0].remedy
    assert LocalStore(root).versions("m") == (1,)


def test_another_user_can_read_what_is_published_whatever_the_umask(public_directory: Path) -> None:
    staged = stage(public_directory / "staged")
    root = public_directory / "store"
    before = os.umask(0o077)
    try:
        LocalStore(root).publish(*staged, "m")
    finally:
        os.umask(before)
    for path in [root, root / "m", *(root / "m").rglob("*")]:
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == wanted, path


def test_the_umask_may_give_the_group_more(public_directory: Path) -> None:
    before = os.umask(0o002)
    try:
        staged = stage(public_directory / "staged")
        LocalStore(public_directory / "store").publish(*staged, "m")
    finally:
        os.umask(before)
    assert stat.S_IMODE((public_directory / "store/m/1").stat().st_mode) == 0o775
    assert stat.S_IMODE((public_directory / "store/m/1/saved_model.pb").stat().st_mode) == 0o664


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_can_read_a_store_and_not_write(public_directory: Path) -> None:
    staged = stage(public_directory / "staged")
    root = public_directory / "store"
    LocalStore(root).publish(*staged, "m")
    LocalStore(root).documents.write("groups/g", b"1", expected=None)
    other = stage(public_directory / "other", b"other")
    names = sorted(str(path) for path in root.rglob("*"))

    def as_nobody() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        store = LocalStore(root)
        assert check_whole(store, "m") == (1,)
        assert store.documents.read("groups/g") is not None
        for write in (
            lambda: store.publish(*other, "m"),
            lambda: store.withdraw("m", 1, "bad"),
            lambda: store.delete("m", 1),
            lambda: store.documents.write("groups/h", b"1", expected=None),
        ):
            with pytest.raises(StoreError, match="Permission denied"):
                write()

    assert in_child(as_nobody) == 0
    assert sorted(str(path) for path in root.rglob("*")) == names
