"""The store suites against S3 (moto), with obstore and with boto3 alone moving the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.staged_versions import Spoil
from contract.state_documents_suite import StateDocumentsSuite, StoredBytes
from contract.store_suite import StoreSuite
from s3_server import S3Server, moto_server
from store.history import history_of
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import StateDocuments, Store


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/team/models"


class S3Suite(StoreSuite):
    watch_seconds = 0.1
    transfer: str

    @pytest.fixture
    def connect(self, server: S3Server, uri: str) -> Callable[[], Store]:
        return lambda: open_store(uri, s3=server.options(transfer=self.transfer))

    @pytest.fixture
    def spoil(self, server: S3Server, bucket: str) -> Spoil:
        def put(model: str, version: int, path: str, data: bytes) -> None:
            server.client().put_object(Bucket=bucket, Key=f"team/models/{model}/{version}/{path}", Body=data)

        return put


class TestS3StoreByObstore(S3Suite):
    transfer = "obstore"


class TestS3StoreByBoto3(S3Suite):
    transfer = "boto3"


class TestS3StateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self, server: S3Server, uri: str) -> Callable[[], StateDocuments]:
        return lambda: open_store(uri, s3=server.options()).documents

    @pytest.fixture
    def stored(self, server: S3Server, bucket: str) -> StoredBytes:
        return StoredBytes.in_bucket(server.client(), bucket, "team/models/.tfs_deploy/")


@pytest.fixture(scope="module", autouse=True)
def _server_of_the_history(server: S3Server) -> Iterator[None]:
    _running.append(server)
    yield
    _running.clear()


_running: list[S3Server] = []
_buckets: dict[Path, str] = {}


def _connect(root: Path) -> Store:
    if root not in _buckets:
        _buckets[root] = _running[0].new_bucket()
    return open_store(f"s3://{_buckets[root]}", s3=_running[0].options())


TestS3History = history_of(_connect, examples=3)
