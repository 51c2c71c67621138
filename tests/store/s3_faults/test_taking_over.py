"""Two publishers of the same bytes, of which one was taken for dead while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from contract.staged_versions import check_whole
from s3_proxy import Fault, Proxy, Request
from s3_server import S3Server, options_for
from store.s3_faults.conftest import Open, Staged
from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import Contention, TFSDeployError, Transient
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, hex_of
from tfs_deploy.store.object_store.publish_lease import PublishLeases
from tfs_deploy.store.object_store.store import S3Store
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

pytestmark = pytest.mark.faults

DATA = "variables/variables.data-00000-of-00001"


class AtFirst:
    """Does something before the first write of something is sent on, and then perhaps breaks it."""

    def __init__(self, proxy: Proxy, what: str, action: Callable[[], object], **fault: Any) -> None:
        self._what, self._action, self._fault, self._done = what, action, fault, threading.Event()
        proxy.rule = self

    def __call__(self, request: Request) -> Fault | None:
        if request.method != "PUT" or self._what not in request.path or self._done.is_set():
            return None
        self._done.set()
        return Fault(before=self._action, **self._fault)


def test_who_was_taken_over_leaves_the_pieces_of_the_other_alone(
    through_proxy: Open, proxy: Proxy, direct: Store, server: S3Server, bucket: str, staged: Staged
) -> None:
    client = server.client()
    begun: list[str] = []

    def take_over() -> None:
        leases = PublishLeases(direct.documents, SystemClock(), lease_seconds=-60.0)
        lease = next(leases.acquire("m", hex_of(staged[1].fingerprint), seconds=0.0))
        assert lease is not None
        answer = client.create_multipart_upload(Bucket=bucket, Key=f"team/m/{lease.version}/{DATA}")
        begun.append(answer["UploadId"])

    AtFirst(proxy, "partNumber=", take_over, status=400, code="InvalidRequest")
    with pytest.raises(TFSDeployError):
        through_proxy().publish(*staged, "m")
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert begun
    assert begun[0] in {each["UploadId"] for each in uploads}


def test_a_publish_that_was_taken_over_may_be_repeated_and_gives_the_version(
    through_proxy: Open, proxy: Proxy, server: S3Server, uri: str, staged: Staged
) -> None:
    other = S3Store(uri, options=server.options(), lease_seconds=-60.0)
    AtFirst(proxy, "partNumber=", lambda: other.publish(*staged, "m"))
    with pytest.raises(Transient):
        through_proxy().publish(*staged, "m")
    again = through_proxy().publish(*staged, "m")
    assert (again.version.version, again.created) == (1, False)
    assert check_whole(other, "m") == (1,)


@pytest.mark.parametrize("how", ["withdraw", "delete"])
def test_a_late_manifest_does_not_restore_a_removed_version(
    proxy: Proxy, server: S3Server, uri: str, staged: Staged, how: str
) -> None:
    other = S3Store(uri, options=server.options(), lease_seconds=-60.0)

    def publish_and_remove() -> None:
        assert other.publish(*staged, "m").version.version == 1
        other.withdraw("m", 1, "bad") if how == "withdraw" else other.delete("m", 1)

    AtFirst(proxy, f"/m/1/{MANIFEST_PATH}", publish_and_remove)
    late = open_store(uri, s3=options_for(proxy.url))
    with pytest.raises(Contention, match="removed while this publish was delayed"):
        late.publish(*staged, "m")
    assert other.versions("m") == ()
    assert late.publish(*staged, "m").version.version == 2
    assert check_whole(other, "m") == (2,)


def test_who_was_taken_over_leaves_nothing_under_a_number_that_was_given_up(
    proxy: Proxy, server: S3Server, uri: str, bucket: str, staged: Staged
) -> None:
    other = S3Store(uri, options=server.options(), lease_seconds=-60.0)
    AtFirst(proxy, "/m/1/saved_model.pb", lambda: other.publish(*staged, "m", above=5))
    with pytest.raises(Contention):
        open_store(uri, s3=options_for(proxy.url)).publish(*staged, "m")
    assert check_whole(other, "m") == (6,)
    left = server.client().list_objects_v2(Bucket=bucket, Prefix="team/m/1/")
    assert left.get("KeyCount") == 0
    again = other.publish(*staged, "m")
    assert (again.version.version, again.created) == (6, False), "the same bytes are the same version still"
