"""The store suites against Ceph's S3 gateway, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from contract.staged_versions import Spoil, stage
from contract.state_documents_suite import StateDocumentsSuite, StoredBytes
from contract.store_suite import StoreSuite
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
def place() -> str:
    return f"team-{uuid4().hex[:12]}"


class TestRadosgwStore:
    """Those promises that rest on what the server does, and not on our own checks of what we are given."""

    watch_seconds = 0.1
    store = StoreSuite.store
    staged = StoreSuite.staged
    target = StoreSuite.target
    test_found = StoreSuite.test_a_published_version_is_visible_to_every_process
    test_same = StoreSuite.test_the_same_bytes_are_the_same_version
    test_number = StoreSuite.test_the_number_is_above_all_that_is_known
    test_used_once = StoreSuite.test_a_number_is_used_once
    test_repeated = StoreSuite.test_withdraw_and_delete_can_be_repeated_in_any_order
    test_one_goes = StoreSuite.test_only_the_version_that_is_named_goes
    test_models = StoreSuite.test_models_are_those_with_versions
    test_change_token = StoreSuite.test_the_change_token_changes_with_every_change
    test_download = StoreSuite.test_a_download_copies_every_file
    test_wrong_file = StoreSuite.test_a_download_names_the_file_that_is_wrong
    test_interrupted = StoreSuite.test_a_publish_that_is_interrupted_leaves_nothing_visible
    test_many = StoreSuite.test_publishers_of_different_bytes_get_different_numbers
    test_many_same = StoreSuite.test_publishers_of_the_same_bytes_get_one_version

    @pytest.fixture
    def connect(self, server: S3Server, place: str) -> Callable[[], Store]:
        return lambda: open_store(f"s3://{BUCKET}/{place}", s3=server.options(session_token=None))

    @pytest.fixture
    def spoil(self, server: S3Server, place: str) -> Spoil:
        def put(model: str, version: int, path: str, data: bytes) -> None:
            server.client().put_object(Bucket=BUCKET, Key=f"{place}/{model}/{version}/{path}", Body=data)

        return put


class TestRadosgwStateDocuments(StateDocumentsSuite):
    @pytest.fixture
    def connect(self, server: S3Server, place: str) -> Callable[[], StateDocuments]:
        return lambda: open_store(f"s3://{BUCKET}/{place}", s3=server.options(session_token=None)).documents

    @pytest.fixture
    def stored(self, server: S3Server, place: str) -> StoredBytes:
        return StoredBytes.in_bucket(server.client(), BUCKET, f"{place}/.tfs_deploy/")


def test_the_conditional_write_check_is_noted_for_other_processes(server: S3Server, place: str, tmp_path: Path) -> None:
    """This gateway wants ETags without their quotes: a second process must know without trying again."""
    uri, options = f"s3://{BUCKET}/{place}", server.options(session_token=None)
    first = open_store(uri, s3=options).documents.write("groups/g", b"1", expected=None)
    other = open_store(uri, s3=options)
    assert other.documents.write("groups/g", b"2", expected=first) != first
    assert other.publish(*stage(tmp_path / "staged"), "m").created
