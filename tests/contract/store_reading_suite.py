"""The side of `contract.store_suite` that reads: models and change tokens, downloads, and what many do at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.staged_versions import Connect, Spoil, check_whole, stage, watching
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.protocol import Store


class StoreReadingSuite:
    """A part of `StoreSuite`, which has the fixtures."""

    # Models and change tokens

    def test_models_are_those_with_versions(self, connect: Connect, store: Store, tmp_path: Path) -> None:
        assert store.models() == ()
        store.documents.write("groups/default/desired.json", b"{}", expected=None)
        for model in ("n", "m"):
            store.publish(*stage(tmp_path / model, model.encode()), model)
        assert connect().models() == ("m", "n")
        store.withdraw("m", 1, "bad")
        assert connect().models() == ("n",)

    def test_the_change_token_changes_with_every_change(self, connect: Connect, store: Store, tmp_path: Path) -> None:
        assert store.change_token("m") == ""
        seen = []

        def look() -> None:
            token = connect().change_token("m")
            assert token
            assert token not in seen
            assert connect().change_token("m") == token
            seen.append(token)

        for index in range(3):
            store.publish(*stage(tmp_path / str(index), bytes([index])), "m")
            look()
        store.publish(*stage(tmp_path / "other", b"other"), "n")
        assert connect().change_token("m") == seen[-1]
        store.withdraw("m", 2, "bad")
        look()
        store.delete("m", 3)
        look()
        with pytest.raises(InvalidInput):
            store.change_token("../m")

    def test_a_reader_of_the_token_before_the_versions_misses_none(self, connect: Connect, tmp_path: Path) -> None:
        finished = threading.Event()

        def follow() -> tuple[int, ...]:
            store, known, there = connect(), "", ()
            while True:
                last = finished.is_set()
                if (token := store.change_token("m")) != known:
                    known, there = token, store.versions("m")
                if last:
                    return there
                finished.wait(self.watch_seconds / 4)

        with ThreadPoolExecutor(1) as pool:
            follower = pool.submit(follow)
            store = connect()
            for index in range(8):
                store.publish(*stage(tmp_path / str(index), bytes([index])), "m")
            store.withdraw("m", 4, "bad")
            finished.set()
            assert follower.result() == (1, 2, 3, 5, 6, 7, 8)

    # Downloads

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        (tmp_path / "target").mkdir()
        return tmp_path / "target"

    def test_a_download_copies_every_file(self, connect: Connect, target: Path, tmp_path: Path) -> None:
        directory, manifest = stage(tmp_path / "big", bytes(range(256)) * 80_000)
        connect().publish(directory, manifest, "m")
        seen: list[int] = []
        connect().download("m", 1, target, progress=seen.append)
        assert manifests.read(target) == manifest
        manifests.verify(target, manifest)
        assert seen == sorted(seen)
        assert seen[-1] == manifest.total_bytes

    def test_a_download_goes_on_where_another_ended(
        self, store: Store, staged: tuple[Path, Manifest], target: Path
    ) -> None:
        store.publish(*staged, "m")
        (target / "variables").mkdir()
        kept = target / "variables/variables.index"
        kept.write_bytes(b"index")
        identity = kept.stat().st_ino
        (target / "variables/variables.data-00000-of-00001").write_bytes(b"WEIGHTS")
        (target / "assets.extra").mkdir()
        (target / "assets.extra/note.txt").write_bytes(b"a n")
        store.download("m", 1, target)
        manifests.verify(target, staged[1])
        assert kept.stat().st_ino == identity
        store.download("m", 1, target)
        assert kept.stat().st_ino == identity

    def test_a_download_removes_what_is_not_the_versions(
        self, store: Store, staged: tuple[Path, Manifest], target: Path, tmp_path: Path
    ) -> None:
        store.publish(*staged, "m")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"keep me")
        (target / "foreign/deep").mkdir(parents=True)
        (target / "foreign/deep/file").write_bytes(b"x")
        (target / "link").symlink_to(outside)
        (target / "assets").write_bytes(b"a file where a folder belongs")
        (target / "saved_model.pb").mkdir()
        (target / "variables").symlink_to(outside)
        store.download("m", 1, target)
        manifests.verify(target, staged[1])
        assert not (target / "variables").is_symlink()
        assert (outside / "file").read_bytes() == b"keep me"
        assert sorted(path.name for path in outside.iterdir()) == ["file"]

    def test_a_download_names_the_file_that_is_wrong(
        self, store: Store, spoil: Spoil, staged: tuple[Path, Manifest], target: Path
    ) -> None:
        store.publish(*staged, "m")
        good = store.read("m", 1, "variables/variables.index")
        for bad in (b"INDEX", b"inde", b"index and more", b""):
            spoil("m", 1, "variables/variables.index", bad)
            with pytest.raises(CorruptModel, match=r"variables/variables\.index") as caught:
                store.download("m", 1, target)
            assert "data-00000" not in str(caught.value)
            assert not (target / MANIFEST_PATH).exists()
            with pytest.raises(CorruptModel, match=r"variables/variables\.index"):
                store.verify("m", 1)
        spoil("m", 1, "variables/variables.index", good)
        store.download("m", 1, target)
        manifests.verify(target, staged[1])

    def test_a_version_that_is_not_there_is_not_downloaded(
        self, store: Store, staged: tuple[Path, Manifest], target: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(NotFound, match="'m'"):
            store.download("m", 1, target)
        store.publish(*staged, "m")
        with pytest.raises(NotFound, match="absent"):
            store.download("m", 1, tmp_path / "absent")
        store.withdraw("m", 1, "bad")
        with pytest.raises(NotFound, match="'m'"):
            store.download("m", 1, target)
        assert list(target.iterdir()) == []

    def test_progress_rises_to_the_total(self, store: Store, tmp_path: Path) -> None:
        directory, manifest = stage(tmp_path / "big", bytes(5_000_000))
        for _ in range(2):  # the second time nothing is copied, only read
            seen: list[int] = []
            store.publish(directory, manifest, "m", progress=seen.append)
            assert seen == sorted(seen)
            assert seen[-1] == manifest.total_bytes

    def test_a_publish_that_is_interrupted_leaves_nothing_visible(
        self, connect: Connect, staged: tuple[Path, Manifest]
    ) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            connect().publish(*staged, "m", progress=interrupt)
        assert connect().versions("m") == ()
        assert connect().publish(*staged, "m").created

    def test_publishers_of_different_bytes_get_different_numbers(self, connect: Connect, tmp_path: Path) -> None:
        models = [stage(tmp_path / str(index), str(index).encode()) for index in range(12)]
        with watching(connect, "m", self.watch_seconds), ThreadPoolExecutor(6) as pool:
            published = list(pool.map(lambda model: connect().publish(*model, "m"), models))
        assert all(one.created for one in published)
        assert len({one.version.version for one in published}) == 12
        assert check_whole(connect(), "m") == tuple(sorted(one.version.version for one in published))

    def test_publishers_of_the_same_bytes_get_one_version(self, connect: Connect, tmp_path: Path) -> None:
        models = [stage(tmp_path / str(index)) for index in range(6)]
        with watching(connect, "m", self.watch_seconds), ThreadPoolExecutor(6) as pool:
            published = list(pool.map(lambda model: connect().publish(*model, "m"), models))
        assert len({one.version for one in published}) == 1
        assert [one.created for one in published].count(True) == 1
        assert len(connect().versions("m")) == 1
