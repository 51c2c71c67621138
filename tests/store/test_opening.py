"""Where a store in a directory may lie, what a user may write for it, and documents that a user touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from contract.staged_versions import stage
from tfs_deploy.errors import Contention, InvalidInput, MissingExtra, StoreError, TFSDeployError
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.open import open_store

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


# The root


def test_a_missing_root_is_created_by_the_first_write_only(root: Path, staged: Staged) -> None:
    store = LocalStore(root)
    assert store.versions("m") == ()
    assert store.documents.read("k") is None
    assert store.documents.list("") == ()
    store.documents.delete("k")
    assert not root.exists()
    store.publish(*staged, "m")
    assert root.is_dir()


def test_a_root_whose_parent_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="typing error"):
        LocalStore(tmp_path / "modles" / "store")
    assert not (tmp_path / "modles").exists()


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="not a directory"):
        LocalStore(tmp_path / "file")


def test_a_root_whose_parent_vanished_is_reported(tmp_path: Path, staged: Staged) -> None:
    (tmp_path / "mount").mkdir()
    store = LocalStore(tmp_path / "mount" / "store")
    (tmp_path / "mount").rmdir()
    with pytest.raises(StoreError, match="No such file"):
        store.publish(*staged, "m")
    assert not (tmp_path / "mount").exists()


def test_a_model_directory_that_is_a_file_is_reported(store: LocalStore, root: Path, staged: Staged) -> None:
    root.mkdir()
    (root / "m").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        store.publish(*staged, "m")
    with pytest.raises(StoreError, match="Not a directory"):
        store.versions("m")
    assert (root / "m").read_bytes() == b""


def test_a_state_folder_that_is_a_file_is_reported(store: LocalStore, root: Path, staged: Staged) -> None:
    root.mkdir()
    (root / ".tfs_deploy").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        store.publish(*staged, "m")
    assert os.listdir(root) == [".tfs_deploy"]


# State documents on a disk


def test_a_document_edited_by_hand_counts_as_changed(store: LocalStore, root: Path) -> None:
    tag = store.documents.write("groups/g.json", b'{"stable": 1}', expected=None)
    file = root / ".tfs_deploy/groups/g.json"
    file.write_bytes(file.read_bytes().replace(b"1}", b"2}"))
    with pytest.raises(Contention):
        store.documents.write("groups/g.json", b"{}", expected=tag)
    found = store.documents.read("groups/g.json")
    assert found is not None
    assert found.body == b'{"stable": 2}'
    store.documents.write("groups/g.json", b"{}", expected=found.tag)


def test_a_document_put_there_by_hand_is_read(store: LocalStore, root: Path) -> None:
    (root / ".tfs_deploy/groups").mkdir(parents=True)
    (root / ".tfs_deploy/groups/g.json").write_bytes(b"{}")
    found = store.documents.read("groups/g.json")
    assert found is not None
    assert found.body == b"{}"
    store.documents.write("groups/g.json", b"[]", expected=found.tag)


def test_a_key_that_is_a_folder_of_others_is_refused(store: LocalStore) -> None:
    store.documents.write("a/b", b"1", expected=None)
    with pytest.raises(InvalidInput, match="folder of other keys"):
        store.documents.write("a", b"1", expected=None)
    with pytest.raises(TFSDeployError):
        store.documents.write("a/b/c", b"1", expected=None)
    assert store.documents.list("") == ("a/b",)


def test_a_document_too_large_to_be_ours_is_refused(store: LocalStore, root: Path) -> None:
    (root / ".tfs_deploy").mkdir(parents=True)
    with (root / ".tfs_deploy/huge").open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(StoreError, match="huge"):
        store.documents.read("huge")


# Opening


def test_a_path_and_a_file_uri_name_the_same_store(root: Path, staged: Staged) -> None:
    store = open_store(str(root))
    store.publish(*staged, "m")
    for uri in (f"file://{root}", f"file://localhost{root}", store.uri, f"{root}/", f"{root}/../{root.name}"):
        assert open_store(uri).versions("m") == (1,)
        assert open_store(uri).uri == str(root)


def test_a_file_uri_may_be_quoted(tmp_path: Path, staged: Staged) -> None:
    open_store(f"file://{tmp_path}/my%20models").publish(*staged, "m")
    assert (tmp_path / "my models/m/1").is_dir()


def test_a_relative_path_is_made_absolute(tmp_path: Path, staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("store").publish(*staged, "m").version.uri == str(tmp_path / "store/m/1")


@pytest.mark.parametrize(
    "uri", ["", "  ", "gs://bucket/models", "http://host/models", "file://host/models", "file://", "a\0b"]
)
def test_an_unusable_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="directory"):
        open_store(uri)


@pytest.mark.parametrize(
    ("uri", "same"), [("s3://bucket/models/", "s3://bucket/models"), ("s3://bucket", "s3://bucket")]
)
def test_an_s3_address_opens_a_store_in_s3_and_sends_nothing(uri: str, same: str) -> None:
    assert open_store(uri, s3=S3Options(region="us-east-1")).uri == same


@pytest.mark.parametrize("package", ["boto3", "obstore"])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "tfs_deploy.store.object_store.obstore_transfer", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install boto3 obstore"):
        open_store("s3://bucket", s3=S3Options(region="us-east-1", transfer="obstore"))


def test_boto3_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert open_store("s3://bucket", s3=S3Options(region="us-east-1")).uri == "s3://bucket"


def test_only_a_store_in_a_directory_is_readable_by_model_servers(tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    local, remote = open_store(str(tmp_path / "store")), open_store("s3://bucket", s3=S3Options(region="us-east-1"))
    assert (local.directory, local.requires_sync_agent) == (tmp_path / "store", False)
    assert (remote.directory, remote.requires_sync_agent) == (None, True)
