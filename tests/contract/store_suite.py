"""What every Store does, wherever it lies.

A test module subclasses `StoreSuite` and defines two fixtures: `connect`, a callable that returns the store at one
fresh place, as another process would see it: a new object at each call; and `spoil`, a callable that puts other bytes
under one file of a published version, behind the store's back.
tests/store/history.py plays random histories on any store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.staged_versions import Connect, check_whole, stage
from contract.store_reading_suite import StoreReadingSuite
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound, TFSDeployError
from tfs_deploy.names import MAX_VERSION
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.protocol import MAX_READ_BYTES, Store

BAD_MODELS = ["", "..", ".hidden", "a/b", "../a", "a\\b", "a\nb", "-a", "m" * 128]


class StoreSuite(StoreReadingSuite):
    # Seconds between two looks at the store while others publish; a server of the tests' own needs some air.
    watch_seconds = 0.002

    @pytest.fixture
    def store(self, connect: Connect) -> Store:
        return connect()

    @pytest.fixture
    def staged(self, tmp_path: Path) -> tuple[Path, Manifest]:
        return stage(tmp_path / "staged")

    def test_an_unknown_model_has_no_versions(self, store: Store) -> None:
        assert store.versions("m") == ()
        assert store.find("m", "sha256:" + "0" * 64) is None
        for use in (store.manifest, store.verify, store.delete):
            with pytest.raises(NotFound, match="'m'"):
                use("m", 1)
        with pytest.raises(NotFound):
            store.read("m", 1, "assets.extra/note.txt")
        with pytest.raises(NotFound):
            store.withdraw("m", 1, "why not")

    def test_a_published_version_is_visible_to_every_process(
        self, connect: Connect, store: Store, staged: tuple[Path, Manifest]
    ) -> None:
        directory, manifest = staged
        published = store.publish(directory, manifest, "m")
        assert published.created
        assert published.uploaded_bytes == manifest.total_bytes
        assert (published.version.model, published.version.version) == ("m", 1)
        assert published.version.fingerprint == manifest.fingerprint
        other = connect()
        assert other.versions("m") == (1,)
        assert other.manifest("m", 1) == manifest
        assert other.find("m", manifest.fingerprint) == published.version
        assert other.read("m", 1, "assets.extra/note.txt") == b"a note"
        other.verify("m", 1)

    def test_a_directory_holds_the_versions_and_needs_no_agent(
        self, store: Store, staged: tuple[Path, Manifest]
    ) -> None:
        store.publish(*staged, "m")
        if store.directory is not None:
            assert (store.directory / "m/1/saved_model.pb").is_file()
            assert not store.requires_sync_agent

    def test_the_same_bytes_are_the_same_version(
        self, connect: Connect, staged: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        first = connect().publish(*staged, "m")
        again = connect().publish(*stage(tmp_path / "again"), "m", above=40)
        assert again.version == first.version
        assert (again.created, again.uploaded_bytes) == (False, 0)
        assert connect().versions("m") == (1,)

    def test_models_do_not_know_each_other(self, store: Store, staged: tuple[Path, Manifest]) -> None:
        store.publish(*staged, "m", above=10)
        assert store.publish(*staged, "n").version.version == 1
        assert (store.versions("m"), store.versions("n")) == ((11,), (1,))

    def test_the_placeholder_is_no_version(
        self, connect: Connect, store: Store, staged: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        store.publish(*staged, "m")
        for _ in range(2):
            store.put_placeholder("m")
        other = connect()
        assert (other.models(), other.versions("m")) == (("m",), (1,))
        for use in (other.manifest, other.verify, other.delete):
            with pytest.raises(InvalidInput):
                use("m", 0)
        with pytest.raises(InvalidInput):
            other.withdraw("m", 0, "not a version")
        assert other.publish(*staged, "m").created is False
        assert other.publish(*stage(tmp_path / "next", b"next"), "m").version.version == 2
        for _ in range(2):
            other.remove_placeholder("m")
        assert store.versions("m") == (1, 2)
        store.remove_placeholder("unknown")

    def test_the_number_is_above_all_that_is_known(self, store: Store, tmp_path: Path) -> None:
        numbers = [
            store.publish(*stage(tmp_path / str(index), str(index).encode()), "m", above=above).version.version
            for index, above in enumerate([0, 0, 40, 7, -3])
        ]
        assert numbers == [1, 2, 41, 42, 43]
        assert store.versions("m") == (1, 2, 41, 42, 43)

    @pytest.mark.parametrize("above", [MAX_VERSION, MAX_VERSION + 1, True, 1.5, "7"])
    def test_an_above_that_no_number_is_above_is_refused(
        self, store: Store, staged: tuple[Path, Manifest], above: int
    ) -> None:
        with pytest.raises(InvalidInput):
            store.publish(*staged, "m", above=above)
        assert store.versions("m") == ()

    def test_the_last_number_can_be_used_and_then_none(self, store: Store, tmp_path: Path) -> None:
        last = store.publish(*stage(tmp_path / "a", b"a"), "m", above=MAX_VERSION - 1)
        assert last.version.version == MAX_VERSION
        with pytest.raises(TFSDeployError, match="used up"):
            store.publish(*stage(tmp_path / "b", b"b"), "m")
        assert store.versions("m") == (MAX_VERSION,)

    @pytest.mark.parametrize("remove", ["withdraw", "delete", "withdraw and delete"])
    def test_a_number_is_used_once(self, store: Store, staged: tuple[Path, Manifest], remove: str) -> None:
        assert store.publish(*staged, "m").version.version == 1
        if "withdraw" in remove:
            store.withdraw("m", 1, "accuracy 0.1 is below 0.9")
        if "delete" in remove:
            store.delete("m", 1)
        assert store.versions("m") == ()
        assert store.find("m", staged[1].fingerprint) is None
        with pytest.raises(NotFound):
            store.manifest("m", 1)
        again = store.publish(*staged, "m")
        assert (again.version.version, again.created) == (2, True)

    def test_withdraw_and_delete_can_be_repeated_in_any_order(
        self, store: Store, staged: tuple[Path, Manifest]
    ) -> None:
        store.publish(*staged, "m")
        store.withdraw("m", 1, "first reason")
        store.withdraw("m", 1, "second reason")
        store.delete("m", 1)
        store.delete("m", 1)
        store.withdraw("m", 1, "third reason")
        assert store.versions("m") == ()
        with pytest.raises(NotFound):
            store.delete("m", 2)

    def test_the_first_reason_of_a_withdrawal_is_kept(self, store: Store, staged: tuple[Path, Manifest]) -> None:
        store.publish(*staged, "m")
        store.withdraw("m", 1, "accuracy 0.1 is below 0.9")
        store.withdraw("m", 1, "again")
        note = store.documents.read("withdrawn/m/1")
        assert note is not None
        assert b"accuracy 0.1 is below 0.9" in note.body

    def test_only_the_version_that_is_named_goes(self, store: Store, tmp_path: Path) -> None:
        for index in range(4):
            store.publish(*stage(tmp_path / str(index), str(index).encode()), "m")
        store.withdraw("m", 2, "bad")
        store.delete("m", 3)
        assert check_whole(store, "m") == (1, 4)

    @pytest.mark.parametrize(
        "break_it",
        [
            lambda path: (path / "variables/variables.index").write_bytes(b"INDEX"),
            lambda path: (path / "variables/variables.index").write_bytes(b"longer than it was"),
            lambda path: (path / "variables/variables.index").unlink(),
            lambda path: (path / "variables/extra").write_bytes(b"new"),
            lambda path: (path / "assets/empty.txt").write_bytes(b"no longer"),
        ],
        ids=["changed", "longer", "missing", "added", "filled"],
    )
    def test_a_directory_that_is_not_what_its_manifest_says_is_refused(
        self, store: Store, staged: tuple[Path, Manifest], break_it: Callable[[Path], object]
    ) -> None:
        directory, manifest = staged
        break_it(directory)
        with pytest.raises(CorruptModel, match=r"variables|empty\.txt"):
            store.publish(directory, manifest, "m")
        assert store.versions("m") == ()
        assert store.find("m", manifest.fingerprint) is None

    def test_a_changed_directory_is_refused_even_if_the_version_is_there(
        self, store: Store, staged: tuple[Path, Manifest]
    ) -> None:
        directory, manifest = staged
        store.publish(directory, manifest, "m")
        (directory / "variables/variables.index").write_bytes(b"INDEX")
        with pytest.raises(CorruptModel, match=r"variables/variables\.index"):
            store.publish(directory, manifest, "m")
        assert check_whole(store, "m") == (1,)

    def test_a_manifest_with_other_signatures_is_refused(self, store: Store, staged: tuple[Path, Manifest]) -> None:
        directory, manifest = staged
        other = Manifest(manifest.fingerprint, manifest.files, {}, "", {}, manifest.created_at)
        with pytest.raises(CorruptModel, match="signatures"):
            store.publish(directory, other, "m")
        assert store.versions("m") == ()

    def test_a_refused_publish_can_be_repaired(self, store: Store, staged: tuple[Path, Manifest]) -> None:
        directory, manifest = staged
        (directory / "variables/variables.index").write_bytes(b"INDEX")
        with pytest.raises(CorruptModel):
            store.publish(directory, manifest, "m")
        (directory / "variables/variables.index").write_bytes(b"index")
        assert store.publish(directory, manifest, "m").created
        assert check_whole(store, "m") != ()

    def test_a_manifest_in_the_staged_directory_is_ignored(
        self, store: Store, staged: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        directory, manifest = staged
        (directory / MANIFEST_PATH).write_bytes(b"not the manifest")
        store.publish(directory, manifest, "m")
        assert store.manifest("m", 1) == manifest

    def test_a_directory_that_is_not_there_is_named(
        self, store: Store, staged: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        with pytest.raises(NotFound, match="absent"):
            store.publish(tmp_path / "absent", staged[1], "m")

    @pytest.mark.parametrize("model", BAD_MODELS)
    def test_a_bad_model_name_is_refused_everywhere(
        self, store: Store, staged: tuple[Path, Manifest], model: str
    ) -> None:
        uses: list[Callable[[], object]] = [
            lambda: store.publish(*staged, model),
            lambda: store.versions(model),
            lambda: store.manifest(model, 1),
            lambda: store.find(model, staged[1].fingerprint),
            lambda: store.read(model, 1, "a"),
            lambda: store.verify(model, 1),
            lambda: store.withdraw(model, 1, "bad"),
            lambda: store.delete(model, 1),
        ]
        for use in uses:
            with pytest.raises(InvalidInput, match="model name"):
                use()
        assert store.documents.list("") == ()

    @pytest.mark.parametrize("version", [0, -1, MAX_VERSION + 1, True])
    def test_a_bad_version_is_refused(self, store: Store, version: int) -> None:
        uses: list[Callable[[], object]] = [
            lambda: store.manifest("m", version),
            lambda: store.verify("m", version),
            lambda: store.withdraw("m", version, "bad"),
            lambda: store.delete("m", version),
        ]
        for use in uses:
            with pytest.raises(InvalidInput, match="version"):
                use()

    @pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a/../../b", "", "a//b"])
    def test_read_does_not_leave_the_version(self, store: Store, staged: tuple[Path, Manifest], path: str) -> None:
        store.publish(*staged, "m")
        with pytest.raises(InvalidInput):
            store.read("m", 1, path)

    def test_read_names_what_is_missing(self, store: Store, staged: tuple[Path, Manifest]) -> None:
        store.publish(*staged, "m")
        with pytest.raises(NotFound, match="nothing"):
            store.read("m", 1, "assets.extra/nothing")
        with pytest.raises(NotFound):
            store.read("m", 1, "assets.extra")

    def test_read_is_for_small_files(self, store: Store, tmp_path: Path) -> None:
        store.publish(*stage(tmp_path / "big", bytes(MAX_READ_BYTES + 1)), "m")
        with pytest.raises(InvalidInput, match=str(MAX_READ_BYTES)):
            store.read("m", 1, "variables/variables.data-00000-of-00001")
