"""Servers and tools that are not Amazon's: what they answer, and what they leave in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3_proxy import Fault, Proxy, Request
from s3_server import S3Server, options_for
from store.s3_faults.conftest import INDEX, Open, Staged
from tfs_deploy.errors import CorruptModel, StoreError
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

pytestmark = pytest.mark.faults


def test_the_removal_of_what_is_not_there_may_be_answered_with_404(proxy: Proxy, uri: str) -> None:
    documents = open_store(uri, s3=options_for(proxy.url)).documents
    proxy.rule = lambda request: Fault(status=404, code="NoSuchKey") if request.method == "DELETE" else None
    documents.delete("groups/g")
    proxy.rule = lambda request: Fault(status=404, code="NoSuchBucket") if request.method == "DELETE" else None
    with pytest.raises(StoreError, match="bucket does not exist"):
        documents.delete("groups/g")


def test_a_conditional_write_waits_until_those_of_others_are_done(proxy: Proxy, uri: str) -> None:
    documents = open_store(uri, s3=options_for(proxy.url)).documents
    tag = documents.write("groups/g", b"1", expected=None)
    left = {"groups/g": 6, "groups/h": 6}

    def busy(request: Request) -> Fault | None:
        key = request.path.partition(".tfs_deploy/")[2].partition("?")[0]
        if request.method != "PUT" or not left.get(key):
            return None
        left[key] -= 1
        return Fault(status=409, code="ConditionalRequestConflict")

    proxy.rule = busy
    documents.write("groups/g", b"2", expected=tag)
    documents.write("groups/h", b"1", expected=None)
    assert left == {"groups/g": 0, "groups/h": 0}


def test_empty_objects_that_stand_for_folders_are_no_files(
    direct: Store, server: S3Server, bucket: str, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    for folder in ("m/", "m/1/", "m/1/variables/", "m/1/assets/"):
        server.client().put_object(Bucket=bucket, Key=f"team/{folder}", Body=b"")
    direct.verify("m", 1)
    assert not direct.publish(*staged, "m").created
    direct.download("m", 1, target)
    assert direct.versions("m") == (1,)
    direct.delete("m", 1)
    assert server.client().list_objects_v2(Bucket=bucket, Prefix="team/m/1/").get("KeyCount") == 0


def test_an_object_that_has_grown_is_not_read_into_the_memory(
    server: S3Server, uri: str, bucket: str, staged: Staged, target: Path, transfer: str
) -> None:
    store = open_store(uri, s3=server.options(transfer=transfer))
    store.publish(*staged, "m")
    server.client().put_object(Bucket=bucket, Key=f"team/m/1/{INDEX}", Body=bytes(64 << 20))
    with pytest.raises(CorruptModel, match="another size"):
        store.read("m", 1, INDEX)
    with pytest.raises(CorruptModel, match=INDEX):
        store.download("m", 1, target)


def test_a_version_that_is_copied_there_is_noticed_when_it_is_whole(
    direct: Store, server: S3Server, bucket: str, staged: Staged
) -> None:
    direct.publish(*staged, "m")
    client, other = server.client(), server.new_bucket()
    copy = open_store(f"s3://{other}/team", s3=server.options())
    keys = [row["Key"] for row in client.list_objects_v2(Bucket=bucket, Prefix="team/m/1/")["Contents"]]
    seen = []
    for key in sorted(keys, key=lambda key: key.endswith(MANIFEST_PATH)):
        client.copy_object(Bucket=other, Key=key, CopySource={"Bucket": bucket, "Key": key})
        seen.append((copy.change_token("m"), copy.versions("m")))
    assert [versions for _, versions in seen] == [()] * (len(keys) - 1) + [(1,)]
    assert seen[-1][0] != seen[-2][0]
    assert copy.change_token("m") == seen[-1][0], "and nothing more happened"


def test_an_endpoint_that_redirects_every_request_is_named(through_proxy: Open, proxy: Proxy) -> None:
    proxy.rule = lambda request: Fault(status=301, code="MovedPermanently")
    with pytest.raises(StoreError, match=r"redirect|another region"):
        through_proxy().documents.read("groups/g")
    with pytest.raises(StoreError, match=r"redirect|another region"):
        through_proxy().manifest("m", 1)
