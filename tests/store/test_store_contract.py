"""The store suites against the store in a directory and the store in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.state_documents_suite import StateDocumentsSuite
from contract.store_suite import StoreSuite
from store.history import history_of
from store_fake import FakeStore
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import StateDocuments, Store


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: open_store(str(tmp_path / "store"))


class TestLocalStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], StateDocuments]:
        return lambda: open_store(str(tmp_path / "store")).documents


class TestFakeStore(StoreSuite):
    @pytest.fixture
    def connect(self) -> Callable[[], Store]:
        store = FakeStore()
        return lambda: store


class TestFakeStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self) -> Callable[[], StateDocuments]:
        documents = FakeStore().documents
        return lambda: documents


TestLocalHistory = history_of(lambda root: LocalStore(root / "store"), examples=12)

_fakes: dict[Path, FakeStore] = {}
TestFakeHistory = history_of(lambda root: _fakes.setdefault(root, FakeStore()))
