"""What only a store in a directory can get wrong: foreign names, links, its disk."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from contract.staged_versions import stage
from store.faults import FaultyFilesystem, failing
from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import (
    CorruptModel,
    NotFound,
    Refused,
    StoreError,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.names import MAX_VERSION, served_number
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.local.filesystem import store_error
from tfs_deploy.store.local.store import LocalStore

Staged = tuple[Path, Manifest]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    return stage(tmp_path / "staged")


# Names that a model server takes for versions


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("7", 7),
        ("007", 7),
        ("+7", 7),
        (" 8", 8),
        ("9 ", 9),
        ("0", 0),
        ("-3", -3),
        ("20170111173521", 20170111173521),
        (str(MAX_VERSION), MAX_VERSION),
        (str(MAX_VERSION + 1), None),
        ("9" * 5000, None),
        *((name, None) for name in ["v1", "1.0", "1_tmp", "1_0", ".1", "5.tmp", "1e3", "", "+", "٣", "7.withdrawn"]),
    ],
)
def test_names_are_read_as_the_model_server_reads_them(name: str, number: int | None) -> None:
    assert served_number(name) == number


@pytest.mark.parametrize(
    ("name", "next_number"),
    [
        ("5", 6),
        ("005", 6),
        ("+5", 6),
        (" 5", 6),
        ("5.withdrawn", 6),
        ("5.tmp", 1),
        ("-5", 1),
    ],
)
@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_the_next_number_is_above_whatever_lies_there(
    store: LocalStore, root: Path, staged: Staged, name: str, next_number: int, kind: str
) -> None:
    base = root / "m"
    base.mkdir(parents=True)
    if kind == "directory":
        (base / name).mkdir()
    elif kind == "file":
        (base / name).write_bytes(b"")
    else:
        (base / name).symlink_to("nowhere")
    assert store.publish(*staged, "m").version.version == next_number
    assert store.versions("m") == (next_number,)


def test_a_number_is_not_used_again_when_its_files_were_removed_by_hand(
    store: LocalStore, root: Path, staged: Staged
) -> None:
    store.publish(*staged, "m")
    (root / "m" / "1").rename(root / "elsewhere")
    assert store.find("m", staged[1].fingerprint) is None
    assert store.publish(*staged, "m").version.version == 2


def test_a_version_of_another_tool_is_not_deleted(store: LocalStore, root: Path, staged: Staged) -> None:
    (root / "m" / "00000123").mkdir(parents=True)
    (root / "m" / "124").mkdir()
    assert store.versions("m") == ()
    with pytest.raises(NotFound, match="124"):
        store.manifest("m", 124)
    with pytest.raises(Refused, match="not published by tfs_deploy"):
        store.delete("m", 124)
    assert (root / "m" / "124").is_dir()


def test_a_version_of_another_tool_can_be_withdrawn(store: LocalStore, root: Path) -> None:
    (root / "m" / "00000123").mkdir(parents=True)
    store.withdraw("m", 123, "it does not answer")
    assert os.listdir(root / "m") == ["123.withdrawn"]
    store.withdraw("m", 123, "again")
    with pytest.raises(Refused):
        store.delete("m", 123)


def test_a_withdrawn_version_that_was_put_back_can_be_withdrawn_again(
    store: LocalStore, root: Path, staged: Staged, tmp_path: Path
) -> None:
    store.publish(*staged, "m")
    store.withdraw("m", 1, "bad")
    (root / "m" / "1").mkdir()
    store.withdraw("m", 1, "bad")
    names = sorted(os.listdir(root / "m"))
    assert names[0] == "1.withdrawn"
    assert len(names) == 2
    assert names[1].startswith("1.withdrawn-")
    assert store.publish(*staged, "m").version.version == 2


def test_versions_of_a_copied_root_are_listed_without_its_documents(
    store: LocalStore, root: Path, staged: Staged
) -> None:
    store.publish(*staged, "m")
    (root / ".tfs_deploy").rename(root.parent / "lost")
    assert store.publish(*staged, "m").created is False
    store.delete("m", 1)
    assert store.publish(*staged, "m").version.version == 2


def test_a_link_to_a_directory_on_another_disk_serves_as_the_models_directory(
    store: LocalStore, root: Path, staged: Staged, tmp_path: Path
) -> None:
    root.mkdir()
    (tmp_path / "disk").mkdir()
    (root / "m").symlink_to(tmp_path / "disk")
    store.publish(*staged, "m")
    assert store.versions("m") == (1,)
    assert (tmp_path / "disk/1" / MANIFEST_PATH).is_file()


# The bytes


def test_foreign_saved_models_are_published_unchanged(store: LocalStore, shared_models: Path) -> None:
    for name in ("half_plus_two_2_versions/00000123", "half_plus_two_tf2_cpu/00000123", "half_plus_three/00000123"):
        directory = shared_models / name
        manifest = manifests.build(directory, clock=SystemClock())
        model = name.split("/")[0]
        published = store.publish(directory, manifest, model)
        for entry in manifest.files:
            assert (Path(published.version.uri) / entry.path).read_bytes() == (directory / entry.path).read_bytes()
        store.verify(model, published.version.version)


def test_a_damaged_version_is_named_and_not_taken_for_the_answer(store: LocalStore, root: Path, staged: Staged) -> None:
    store.publish(*staged, "m")
    (root / "m/1/variables/variables.index").unlink()
    with pytest.raises(CorruptModel, match=r"variables\.index"):
        store.verify("m", 1)
    with pytest.raises(CorruptModel, match="Withdraw that version"):
        store.publish(*staged, "m")
    store.withdraw("m", 1, "damaged")
    assert store.publish(*staged, "m").version.version == 2


def test_verify_detects_a_flipped_bit(store: LocalStore, root: Path, staged: Staged) -> None:
    store.publish(*staged, "m")
    (root / "m/1/variables/variables.index").write_bytes(b"indeX")
    with pytest.raises(CorruptModel, match=r"variables\.index"):
        store.verify("m", 1)


def test_links_within_the_staged_directory_become_files(store: LocalStore, root: Path, tmp_path: Path) -> None:
    directory, _ = stage(tmp_path / "staged")
    (directory / "assets/link.txt").symlink_to("../assets.extra/note.txt")
    manifest = manifests.build(directory, clock=SystemClock())
    store.publish(directory, manifest, "m")
    copied = root / "m/1/assets/link.txt"
    assert not copied.is_symlink()
    assert copied.read_bytes() == b"a note"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_refused(store: LocalStore, staged: Staged, tmp_path: Path, kind: str) -> None:
    path = staged[0] / "variables/variables.index"
    path.unlink()
    if kind == "link":
        (tmp_path / "outside").write_bytes(b"index")
        path.symlink_to(tmp_path / "outside")
    else:
        os.mkfifo(path)
    with pytest.raises(CorruptModel, match=r"variables\.index"):
        store.publish(*staged, "m")
    assert store.versions("m") == ()


def test_a_link_in_a_version_does_not_let_read_out(
    store: LocalStore, root: Path, staged: Staged, tmp_path: Path
) -> None:
    store.publish(*staged, "m")
    (tmp_path / "secret").write_text("secret")
    (root / "m/1/assets.extra/way_out").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="way_out"):
        store.read("m", 1, "assets.extra/way_out")


# The disk


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, StoreError, "Free some space"),
        (errno.EDQUOT, StoreError, "quota"),
        (errno.EROFS, StoreError, "read-only"),
        (errno.EACCES, StoreError, "right to write"),
        (errno.EXDEV, StoreError, "one file system"),
        (errno.ENAMETOOLONG, StoreError, "shorter"),
        (errno.ENOTSUP, StoreError, "Check the store"),
        (errno.ESTALE, Unreachable, "run the same step again"),
        (errno.EIO, Unreachable, "run the same step again"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(number: int, kind: type[TFSDeployError], remedy: str) -> None:
    error = store_error("write", Path("/models/m"), OSError(number, os.strerror(number)))
    assert isinstance(error, kind)
    assert error.cause == f"The store could not write '/models/m': {os.strerror(number)}."
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("step", "number"),
    [("make_folder", errno.EROFS), ("write", errno.ENOSPC), ("sync", errno.EDQUOT), ("rename", errno.EXDEV)],
)
def test_a_publish_that_the_disk_refuses_leaves_nothing(root: Path, staged: Staged, step: str, number: int) -> None:
    counting = FaultyFilesystem()
    LocalStore(root.parent / "trial", files=counting).publish(*staged, "m")
    # The last step of its kind before the version is there: the rename of the version, the sync of its last file.
    last = next(
        index for index, name in enumerate(counting.log, 1) if name.startswith("rename") and name.endswith("/m/1")
    )
    at = max(index for index, name in enumerate(counting.log[:last], 1) if name.split()[0] == step)
    store = LocalStore(root, files=FaultyFilesystem(at, failing(number)))
    with pytest.raises(StoreError, match=os.strerror(number)):
        store.publish(*staged, "m")
    assert not (root / "m").exists()
    assert store.publish(*staged, "m").created


def test_a_folder_that_cannot_be_flushed_on_a_network_mount_is_no_error(
    store: LocalStore, staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert store.publish(*staged, "m").created


def test_no_hard_link_is_made(store: LocalStore, staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    store.publish(*staged, "m")
    store.withdraw("m", 1, "bad")
    store.delete("m", 1)


def test_an_error_of_the_progress_display_is_not_blamed_on_the_store(store: LocalStore, staged: Staged) -> None:
    def show(_: int) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    with pytest.raises(BrokenPipeError):
        store.publish(*staged, "m", progress=show)
    assert store.versions("m") == ()


def test_of_a_version_that_was_moved_elsewhere_only_the_link_is_deleted(
    store: LocalStore, root: Path, staged: Staged, tmp_path: Path
) -> None:
    store.publish(*staged, "m")
    (root / "m/1").rename(tmp_path / "moved")
    (root / "m/1").symlink_to(tmp_path / "moved")
    before = sorted(tmp_path.joinpath("moved").rglob("*"))
    store.delete("m", 1)
    store.delete("m", 1)
    assert store.versions("m") == ()
    assert sorted(tmp_path.joinpath("moved").rglob("*")) == before
    assert [path.name for path in (root / "m").iterdir()] == []


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_mount_without_locks_is_refused(store: LocalStore, staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"no file locks \(flock\)"):
            store.publish(*staged, "m")
    assert store.versions("m") == ()
