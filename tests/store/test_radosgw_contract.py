"""The store suites against Ceph's S3 gateway, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from contract.state_documents_suite import StateDocumentsSuite
from contract.store_suite import Spoil, StoreSuite, stage
from radosgw import radosgw_server
from s3_server import BUCKET, S3Server
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import StateDocuments, Store

# A cluster starts in some 10 s, and its requests wait for its own disk.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with radosgw_server() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"team-{uuid4().hex[:12]}"


class TestRadosgwStore(StoreSuite):
    watch_seconds = 0.1

    @pytest.fixture
    def connect(self, server: S3Server, prefix: str) -> Callable[[], Store]:
        return lambda: open_store(f"s3://{BUCKET}/{prefix}", s3=server.options(session_token=None))

    @pytest.fixture
    def spoil(self, server: S3Server, prefix: str) -> Spoil:
        def put(model: str, version: int, path: str, data: bytes) -> None:
            server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/{model}/{version}/{path}", Body=data)

        return put


class TestRadosgwStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self, server: S3Server, prefix: str) -> Callable[[], StateDocuments]:
        return lambda: open_store(f"s3://{BUCKET}/{prefix}", s3=server.options(session_token=None)).documents


def test_what_the_probe_found_out_is_noted_for_other_processes(server: S3Server, prefix: str, tmp_path: Path) -> None:
    """This gateway wants ETags without their quotes: a second process must know without trying again."""
    uri, options = f"s3://{BUCKET}/{prefix}", server.options(session_token=None)
    first = open_store(uri, s3=options).documents.write("groups/g", b"1", expected=None)
    other = open_store(uri, s3=options)
    assert other.documents.write("groups/g", b"2", expected=first) != first
    assert other.publish(*stage(tmp_path / "staged"), "m").created
