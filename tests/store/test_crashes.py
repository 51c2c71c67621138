"""Kill and break every step of publish, withdraw, delete and document writes; run again; nothing is left (I3)."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.staged_versions import check_whole, stage
from store.faults import FaultyFilesystem, die, failing, in_child
from store.finished import STABLE, check_ended, put_document
from tfs_deploy.errors import StoreError, TFSDeployError, Unreachable
from tfs_deploy.names import served_number
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.local.store import LocalStore
from watching_server import WatchingServer

pytestmark = pytest.mark.faults

Staged = tuple[Path, Manifest]
Operation = Callable[[LocalStore, Staged], object]

OPERATIONS: dict[str, Operation] = {
    "publish": lambda store, staged: store.publish(*staged, "m"),
    "withdraw": lambda store, staged: store.withdraw("m", 1, "bad"),
    "delete": lambda store, staged: store.delete("m", 1),
    "write": lambda store, staged: put_document(store, b"new"),
}


@pytest.fixture
def disk() -> Iterator[Path]:
    """A fresh directory, in memory where the machine has such a place: some hundred stores are made and broken."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="tfs-deploy-crash-", dir=memory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def staged(disk: Path) -> Staged:
    return stage(disk / "staged")


@pytest.fixture
def prepare(disk: Path, staged: Staged) -> Callable[[str], Path]:
    """Return a new store in which the operation makes sense."""
    other = stage(disk / "other", b"other weights")
    pristine = {}
    for name in OPERATIONS:
        root = disk / f"pristine-{name}"
        root.mkdir()
        store = LocalStore(root)
        if name != "publish":
            store.publish(*staged, "m")
            store.publish(*other, "m")
            put_document(store, b"old")
        pristine[name] = root

    def copy(name: str) -> Path:
        target = disk / "store"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(pristine[name], target)
        return target

    return copy


def check_nothing_half_visible(root: Path) -> None:
    """Look as a model server does: every name that is a number is a whole version."""
    store = LocalStore(root)
    base = root / "m"
    served = {served_number(name) for name in os.listdir(base)} - {None} if base.is_dir() else set()
    assert served == set(check_whole(store, "m"))
    found = store.documents.read("groups/g/desired.json")
    assert found is None or found.body in {b"old", b"new"}


def check_finished(root: Path, name: str, staged: Staged, server: WatchingServer) -> None:
    """Check that a plain re-run came to the operation's end and left nothing behind."""
    check_nothing_half_visible(root)
    store = LocalStore(root)
    there = check_ended(store, name, staged)
    names = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert not [path for path in names if "partial" in path or "deleting" in path]
    withdrawn = {"m/1.withdrawn"} if name == "withdraw" else set()
    assert {path for path in names if path.startswith("m/") and path.count("/") == 1} == {
        f"m/{version}" for version in there
    } | withdrawn
    server.expect("m", *there)


def error_of(work: Callable[[], object]) -> TFSDeployError | None:
    """Return the error of our tree that `work` raises; any other error fails the test."""
    try:
        work()
    except TFSDeployError as error:
        return error
    return None


def steps_of(root: Path, operation: Operation, staged: Staged) -> list[str]:
    files = FaultyFilesystem()
    operation(LocalStore(root, files=files), staged)
    return files.log


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kill_at_any_step_leaves_nothing_half_visible_and_a_second_run_finishes(
    prepare: Callable[[str], Path], staged: Staged, tell: Callable[[str], None], name: str, after: bool
) -> None:
    operation = OPERATIONS[name]
    steps = len(steps_of(prepare(name), operation, staged))
    assert steps > 4
    looks = 0
    for at in range(1, steps + 1):
        root = prepare(name)
        files = FaultyFilesystem(at, die, after=after)
        with WatchingServer(root, stable=STABLE[name]).watching() as server:
            work = lambda root=root, files=files: operation(LocalStore(root, files=files), staged)  # noqa: E731
            assert in_child(work, during_fork=server.still()) == -9
            check_nothing_half_visible(root)
            server.look()
            operation(LocalStore(root), staged)
        check_finished(root, name, staged, server)
        looks += server.looks
    tell(f"{name}: killed {'after' if after else 'before'} {steps} steps, {looks} looks of a server, 0 violations")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "gone"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_error_at_any_step_is_reported_and_a_second_run_finishes(
    prepare: Callable[[str], Path], staged: Staged, tell: Callable[[str], None], name: str, number: int
) -> None:
    operation = OPERATIONS[name]
    log = steps_of(prepare(name), operation, staged)
    steps = len(log)
    kind = StoreError if number == errno.ENOSPC else Unreachable
    reported = looks = 0
    for at in range(1, steps + 1):
        root = prepare(name)
        files = FaultyFilesystem(at, failing(number))
        with WatchingServer(root, stable=STABLE[name]).watching() as server:
            error = error_of(lambda root=root, files=files: operation(LocalStore(root, files=files), staged))
            if error is not None:
                assert isinstance(error, kind), files.log[-1]
                assert os.strerror(number) in error.cause
                assert str(root) in error.cause
                reported += 1
            check_nothing_half_visible(root)
            server.look()
            operation(LocalStore(root), staged)
        check_finished(root, name, staged, server)
        looks += server.looks
    # Only tidying up may fail in silence, and noting what there is: at most six steps each time.
    notes = sum("/.overview" in step and step.startswith("rename") for step in log)
    assert reported >= steps - 3 - 6 * notes
    tell(f"{name}: {os.strerror(number)} at {steps} steps, {looks} looks of a server, 0 violations")


def test_an_error_before_the_rename_leaves_no_trace_in_the_models_directory(
    prepare: Callable[[str], Path], staged: Staged
) -> None:
    root = prepare("publish")
    files = FaultyFilesystem()
    LocalStore(root, files=files).publish(*staged, "m")
    rename = next(at for at, step in enumerate(files.log, 1) if step.startswith("rename") and step.endswith("/m/1"))
    silent = 0
    for at in range(1, rename + 1):
        root = prepare("publish")
        files = FaultyFilesystem(at, failing(errno.ENOSPC))
        error = error_of(lambda root=root, files=files: LocalStore(root, files=files).publish(*staged, "m"))
        if error is None:
            silent += 1
        else:
            assert "No space left" in error.cause
            assert not (root / "m").exists()
    assert silent <= 8  # the steps of noting what there is


def test_a_number_that_was_claimed_by_a_publish_that_died_stays_used(
    prepare: Callable[[str], Path], staged: Staged
) -> None:
    root = prepare("publish")
    files = FaultyFilesystem()
    LocalStore(root, files=files).publish(*staged, "m")
    rename = next(at for at, step in enumerate(files.log, 1) if step.startswith("rename") and step.endswith("/m/1"))
    root = prepare("publish")
    killed = FaultyFilesystem(rename, die)
    assert in_child(lambda: LocalStore(root, files=killed).publish(*staged, "m")) == -9
    assert LocalStore(root).versions("m") == ()
    assert LocalStore(root).publish(*staged, "m").version.version == 2


def test_the_leftovers_of_a_dead_publish_are_removed_by_the_publish_of_other_bytes(
    prepare: Callable[[str], Path], staged: Staged, tmp_path: Path
) -> None:
    root = prepare("publish")
    files = FaultyFilesystem()
    LocalStore(root, files=files).publish(*staged, "m")
    root = prepare("publish")
    killed = FaultyFilesystem(files.log.index("write") + 1, die)
    assert in_child(lambda: LocalStore(root, files=killed).publish(*staged, "m")) == -9
    assert [name for name in os.listdir(root / "m") if name.startswith(".partial-")]
    LocalStore(root).publish(*stage(tmp_path / "third", b"third"), "m")
    assert os.listdir(root / "m") == ["1"]


def test_the_partial_directory_of_a_living_publish_is_left_alone(
    prepare: Callable[[str], Path], staged: Staged, tmp_path: Path
) -> None:
    root = prepare("publish")
    others = []

    def publish_another(_: int) -> None:
        if not others:
            others.append(LocalStore(root).publish(*stage(tmp_path / "third", b"third"), "m"))
            assert len([name for name in os.listdir(root / "m") if name.startswith(".partial-")]) == 1

    published = LocalStore(root).publish(*staged, "m", progress=publish_another)
    assert (others[0].version.version, published.version.version) == (1, 2)
    assert check_whole(LocalStore(root), "m") == (1, 2)
