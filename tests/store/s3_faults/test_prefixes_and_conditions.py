"""Servers that ignore conditional writes, prefixes that are no store, bad names, many publishers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.staged_versions import check_whole, stage
from s3_proxy import Fault, Proxy
from s3_server import S3Server, options_for, rclone_server
from store.s3_faults.conftest import INDEX, Open, Staged
from tfs_deploy.errors import (
    CorruptModel,
    Permanent,
    Refused,
)
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.store.object_store.store import S3Store
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

pytestmark = pytest.mark.faults


def test_a_server_that_ignores_conditional_writes_is_refused(tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged")
    with rclone_server(tmp_path / "served") as hostile:
        store = open_store("s3://models/team", s3=hostile.options())
        for write in (
            lambda: store.publish(*staged, "m"),
            lambda: store.documents.write("groups/g", b"1", expected=None),
        ):
            with pytest.raises(Refused, match="ignores conditional writes"):
                write()
        assert store.versions("m") == ()
        assert store.documents.list("") == ()
        assert hostile.names("team") == []


def test_a_store_is_tried_once_and_not_on_the_word_of_another_server(
    server: S3Server, proxy: Proxy, uri: str, bucket: str, staged: Staged
) -> None:
    open_store(uri, s3=server.options()).documents.write("groups/g", b"1", expected=None)
    # The proxy's address is another endpoint, so the note of the first does not count there.
    open_store(uri, s3=options_for(proxy.url)).documents.write("groups/h", b"1", expected=None)
    tried = [request for request in proxy.requests if ".probe/" in request.path and request.write]
    assert tried
    proxy.start_over()
    open_store(uri, s3=options_for(proxy.url)).documents.write("groups/i", b"1", expected=None)
    assert not [request for request in proxy.requests if ".probe/" in request.path and request.write]


def test_a_prefix_inside_a_model_of_another_store_is_refused(server: S3Server, bucket: str, staged: Staged) -> None:
    open_store(f"s3://{bucket}/team", s3=server.options()).publish(*staged, "m")
    before = server.names("team", bucket=bucket)
    for inside in ("team/m", "team/m/1", "team/m/2"):
        with pytest.raises(Refused, match=r"inside the model 'm'|model version"):
            open_store(f"s3://{bucket}/{inside}", s3=server.options()).publish(*staged, "x")
    assert server.names("team", bucket=bucket) == before
    assert open_store(f"s3://{bucket}/team/other", s3=server.options()).publish(*staged, "m").created


def test_foreign_names_among_the_versions_are_ignored(
    server: S3Server, bucket: str, direct: Store, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    put = server.client().put_object
    for key in ("m/../x", "m/007/" + MANIFEST_PATH, "m/+5/x", "m/abc/x", "m/9x/x", ".hidden/1/x", "../1/x", "a b/1/x"):
        put(Bucket=bucket, Key=f"team/{key}", Body=b"{}")
    assert direct.versions("m") == (1,)
    assert direct.models() == ("m",)
    direct.download("m", 1, target)
    manifests.verify(target, staged[1])


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_manifest_that_leads_elsewhere_is_refused(
    server: S3Server, bucket: str, direct: Store, staged: Staged, target: Path, path: str
) -> None:
    direct.publish(*staged, "m")
    key = f"team/m/1/{MANIFEST_PATH}"
    text = server.client().get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    server.client().put_object(Bucket=bucket, Key=key, Body=text.replace(INDEX, path.replace("\\", "\\\\")).encode())
    with pytest.raises(CorruptModel, match="bad path"):
        direct.download("m", 1, target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "identical"])
def test_fifty_publishers_at_once(server: S3Server, uri: str, tmp_path: Path, distinct: bool) -> None:
    models = [stage(tmp_path / str(index), str(index if distinct else 0).encode()) for index in range(50)]
    stores = [S3Store(uri, options=server.options()) for _ in models]
    with ThreadPoolExecutor(50) as pool:
        published = list(pool.map(lambda store, model: store.publish(*model, "m"), stores, models))
    numbers = sorted(one.version.version for one in published)
    if distinct:
        assert len(set(numbers)) == 50
        assert all(one.created for one in published)
        for one, (_, manifest) in zip(published, models, strict=True):
            assert stores[0].manifest("m", one.version.version) == manifest
    else:
        assert set(numbers) == {1}
        assert [one.created for one in published].count(True) == 1
    assert check_whole(stores[0], "m") == tuple(sorted(set(numbers)))


def test_a_dead_publisher_of_other_bytes_blocks_no_publish(
    through_proxy: Open, direct: Store, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.start_over(
        lambda request: Fault(status=403, code="AccessDenied") if "/m/1/saved_model.pb" in request.path else None
    )
    with pytest.raises(Permanent):
        through_proxy().publish(*stage(tmp_path / "a", b"a"), "m")
    proxy.start_over()
    assert direct.publish(*stage(tmp_path / "b", b"b"), "m").version.version == 2
    assert through_proxy().publish(*stage(tmp_path / "a", b"a"), "m").version.version == 1
    assert direct.versions("m") == (1, 2)
