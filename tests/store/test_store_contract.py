"""The store suites against the store in a directory and the store in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.staged_versions import Spoil
from contract.state_documents_suite import StateDocumentsSuite, StoredBytes
from contract.store_suite import StoreSuite
from store.history import history_of
from store_fake import FakeStateDocuments, FakeStore
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import StateDocuments, Store


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: open_store(str(tmp_path / "store"))

    @pytest.fixture
    def spoil(self, tmp_path: Path) -> Spoil:
        return lambda model, version, path, data: put(tmp_path / "store" / model / str(version) / path, data)


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class TestLocalStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], StateDocuments]:
        return lambda: open_store(str(tmp_path / "store")).documents

    @pytest.fixture
    def stored(self, tmp_path: Path) -> StoredBytes:
        folder = tmp_path / "store/.tfs_deploy"
        return StoredBytes(lambda key: (folder / key).read_bytes(), lambda key, data: (folder / key).write_bytes(data))


class TestFakeStore(StoreSuite):
    @pytest.fixture
    def fake(self) -> FakeStore:
        return FakeStore()

    @pytest.fixture
    def connect(self, fake: FakeStore) -> Callable[[], Store]:
        return lambda: fake

    @pytest.fixture
    def spoil(self, fake: FakeStore) -> Spoil:
        return fake.spoil


class TestFakeStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def documents_in_memory(self) -> FakeStateDocuments:
        return FakeStateDocuments()

    @pytest.fixture
    def connect(self, documents_in_memory: FakeStateDocuments) -> Callable[[], StateDocuments]:
        return lambda: documents_in_memory

    @pytest.fixture
    def stored(self, documents_in_memory: FakeStateDocuments) -> StoredBytes:
        by_key = documents_in_memory.stored
        return StoredBytes(by_key.__getitem__, by_key.__setitem__)


TestLocalHistory = history_of(lambda root: LocalStore(root / "store"), examples=12)

_fakes: dict[Path, FakeStore] = {}
TestFakeHistory = history_of(lambda root: _fakes.setdefault(root, FakeStore()))
