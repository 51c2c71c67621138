"""A network and a server that misbehave, and what a user is told about it."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.store_suite import check_whole, stage
from s3_proxy import Fault, Proxy, Request, proxy_to
from s3_server import ACCESS_KEY, SECRET, SESSION_TOKEN, S3Server, moto_server, options_for, rclone_server
from tfs_deploy.errors import (
    CorruptModel,
    InvalidInput,
    Permanent,
    Refused,
    StoreError,
    TFSDeployError,
    Transient,
    Unreachable,
)
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store
from tfs_deploy.store.s3.options import S3Options
from tfs_deploy.store.s3.store import S3Store
from tfs_deploy.store.s3.transfer import PART_BYTES

pytestmark = pytest.mark.faults

Staged = tuple[Path, Manifest]
Open = Callable[..., Store]
INDEX = "variables/variables.index"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[Proxy]:
    with proxy_to(server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults_at_first(proxy: Proxy) -> Iterator[None]:
    proxy.start_over()
    yield
    proxy.start_over()


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/team"


@pytest.fixture(params=["obstore", "boto3"])
def transfer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def through_proxy(proxy: Proxy, uri: str, transfer: str) -> Open:
    return lambda **more: open_store(uri, s3=options_for(proxy.url, transfer=transfer, **more))


@pytest.fixture
def direct(server: S3Server, uri: str) -> Store:
    return open_store(uri, s3=server.options())


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    """A model with a file that is fetched and sent in pieces."""
    return stage(tmp_path / "staged", bytes(range(256)) * (PART_BYTES // 256 + 1))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def every(number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.count % number == 0 else None


def once_per_object(fault: Fault, *, method: str = "GET", where: str = "/m/1/") -> Callable[[Request], Fault | None]:
    seen: set[str] = set()

    def rule(request: Request) -> Fault | None:
        if request.method != method or where not in request.path or request.path in seen:
            return None
        seen.add(request.path)
        return fault

    return rule


# A network that loses things


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503, code="SlowDown"), Fault(status=500, code="InternalError"), Fault(reset=True)],
    ids=["503", "500", "reset"],
)
def test_a_publish_and_a_download_get_through_a_storm(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path, fault: Fault
) -> None:
    proxy.start_over(every(7, fault))
    store = through_proxy(max_retries=4)
    assert store.publish(*staged, "m").created
    store.download("m", 1, target)
    manifests.verify(target, staged[1])
    proxy.start_over()
    assert check_whole(direct, "m") == (1,)


def test_an_answer_that_is_lost_does_not_make_a_second_version(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged
) -> None:
    seen: set[str] = set()

    def lose_the_first_answer(request: Request) -> Fault | None:
        if request.method != "PUT" or request.path in seen:
            return None
        seen.add(request.path)
        return Fault(after=lambda: None)

    proxy.start_over(lose_the_first_answer)
    published = through_proxy(max_retries=4).publish(*staged, "m")
    assert (published.version.version, published.created) == (1, True)
    assert check_whole(direct, "m") == (1,)


@pytest.mark.parametrize("fault", [Fault(truncate=True), Fault(corrupt=True)], ids=["truncated", "corrupted"])
def test_a_body_that_arrives_damaged_once_is_fetched_again(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path, fault: Fault
) -> None:
    direct.publish(*staged, "m")
    damage = once_per_object(fault, where="/m/1/variables/")
    proxy.start_over(damage)
    through_proxy().download("m", 1, target)
    manifests.verify(target, staged[1])


def test_a_body_that_always_arrives_damaged_is_named(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(lambda request: Fault(corrupt=True) if INDEX in request.path else None)
    with pytest.raises(CorruptModel, match=INDEX):
        through_proxy().download("m", 1, target)
    assert not (target / MANIFEST_PATH).exists()


def test_a_body_that_always_breaks_off_is_transient(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(lambda request: Fault(truncate=True) if INDEX in request.path else None)
    with pytest.raises(Transient):
        through_proxy(max_retries=1).download("m", 1, target)
    assert not (target / MANIFEST_PATH).exists()


def test_a_body_that_stalls_is_fetched_again(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(once_per_object(Fault(slow_seconds=8.0), where=INDEX))
    through_proxy(read_timeout_seconds=0.5).download("m", 1, target)
    manifests.verify(target, staged[1])


@pytest.mark.parametrize("fault", [Fault(status=503, code="SlowDown"), Fault(reset=True)], ids=["server", "connection"])
def test_a_store_that_stays_away_is_transient_and_the_wait_is_bounded(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, fault: Fault
) -> None:
    proxy.start_over(lambda request: fault)
    with pytest.raises(Unreachable, match="could not read"):
        through_proxy(max_retries=1).publish(*staged, "m")
    assert direct.versions("m") == ()
    assert len(proxy.requests) <= 8


def test_an_endpoint_where_nobody_listens_is_unreachable(uri: str, staged: Staged) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="no whole answer"):
        open_store(uri, s3=options_for(url, max_retries=0)).publish(*staged, "m")


def test_a_publish_goes_on_where_another_ended_and_sends_the_rest_only(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged
) -> None:
    proxy.start_over(
        lambda request: Fault(status=403, code="AccessDenied") if "/m/1/saved_model.pb" in request.path else None
    )
    with pytest.raises(StoreError, match="access is denied"):
        through_proxy().publish(*staged, "m")
    proxy.start_over()
    seen: list[int] = []
    published = through_proxy().publish(*staged, "m", progress=seen.append)
    assert (published.version.version, published.created) == (1, True)
    assert published.uploaded_bytes == len((staged[0] / "saved_model.pb").read_bytes())
    assert seen[-1] == staged[1].total_bytes
    sent = [request.path for request in proxy.requests if request.write and "/m/1/" in request.path]
    assert [path.partition("/m/1/")[2] for path in sent] == ["saved_model.pb", MANIFEST_PATH]
    assert check_whole(direct, "m") == (1,)


def test_files_are_sent_in_order_and_the_manifest_last(through_proxy: Open, proxy: Proxy, staged: Staged) -> None:
    through_proxy().publish(*staged, "m")
    sent = [request.path.partition("/m/1/")[2].partition("?")[0] for request in proxy.requests if request.write]
    order = list(dict.fromkeys(path.partition("/")[0] if "manifest" not in path else path for path in sent if path))
    assert order == ["assets.extra", "assets", "variables", "saved_model.pb", MANIFEST_PATH]


def test_the_same_bytes_again_send_nothing(through_proxy: Open, proxy: Proxy, staged: Staged) -> None:
    through_proxy().publish(*staged, "m")
    proxy.start_over()
    assert through_proxy().publish(*staged, "m").uploaded_bytes == 0
    assert not [request for request in proxy.requests if request.write and "/m/" in request.path.partition(".tfs")[0]]


# What a user is told


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "AccessDenied", StoreError, "s3:PutObject"),
        (403, "InvalidAccessKeyId", StoreError, "access key"),
        (403, "SignatureDoesNotMatch", StoreError, "secret"),
        (400, "ExpiredToken", StoreError, "expired"),
        (403, "RequestTimeTooSkewed", StoreError, "clock"),
        (301, "PermanentRedirect", StoreError, "region"),
        (400, "AuthorizationHeaderMalformed", StoreError, "region"),
        (404, "NoSuchBucket", StoreError, "bucket does not exist"),
        (500, "InternalError", Unreachable, "internal error"),
        (503, "SlowDown", Unreachable, "slow down"),
        (501, "NotImplemented", StoreError, "whole S3 API"),
        (418, "Teapot", StoreError, "Teapot"),
    ],
)
@pytest.mark.parametrize("where", ["/.tfs_deploy/", "/m/1/saved_model.pb"], ids=["state", "bytes"])
def test_what_the_server_answers_is_told_with_a_remedy_and_without_secrets(
    through_proxy: Open,
    direct: Store,
    proxy: Proxy,
    tmp_path: Path,
    uri: str,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str,
    kind: type[TFSDeployError],
    text: str,
    where: str,
) -> None:
    caplog.set_level(logging.DEBUG, logger="tfs_deploy")
    staged = stage(tmp_path / "staged")
    proxy.start_over(lambda request: Fault(status=status, code=code) if where in request.path else None)
    store = through_proxy(max_retries=0)
    with pytest.raises(kind, match=text) as caught:
        store.publish(*staged, "m")
    assert uri in caught.value.cause
    assert code in caught.value.cause
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    for secret in (SECRET, SESSION_TOKEN, ACCESS_KEY):
        assert secret not in shown
    assert direct.versions("m") == ()


def test_options_and_stores_show_no_secret(server: S3Server, uri: str) -> None:
    options = server.options()
    store = open_store(uri, s3=options)
    for shown in (repr(options), str(options), repr(store), store.uri, repr(store.documents)):
        for secret in (SECRET, SESSION_TOKEN, ACCESS_KEY):
            assert secret not in shown
    assert store.uri == uri


def test_a_secret_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        open_store(f"s3://{ACCESS_KEY}:{SECRET}@bucket/models")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///models", "s3://b", "s3://bucket//models", "s3://bucket/../x", "s3://bucket/a/.tfs_deploy"]
)
def test_an_address_that_names_no_store_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        open_store(uri, s3=S3Options(region="us-east-1"))


def test_half_a_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match="secret"):
        S3Options(access_key_id="id")


def test_a_bucket_that_is_not_there_is_named(server: S3Server, staged: Staged, target: Path) -> None:
    store = open_store("s3://no-such-bucket/team", s3=server.options())
    for use in (
        lambda: store.publish(*staged, "m"),
        lambda: store.versions("m"),
        lambda: store.tip("m"),
        lambda: store.find("m", staged[1].fingerprint),
        lambda: store.download("m", 1, target),
        lambda: store.documents.read("groups/g"),
        lambda: store.documents.list(""),
        store.models,
    ):
        with pytest.raises(StoreError, match="bucket does not exist"):
            use()


def test_without_credentials_the_ways_to_give_them_are_named(
    server: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = open_store(uri, s3=S3Options(endpoint_url=server.url, region="us-east-1"))
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        store.versions("m")


def test_the_environment_is_enough(
    server: S3Server, uri: str, staged: Staged, transfer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert open_store(uri, s3=S3Options(transfer=transfer)).publish(*staged, "m").created
    assert check_whole(open_store(uri), "m") == (1,)


# A server that ignores conditions, and places that are not stores


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


def test_odd_names_beside_the_versions_are_nobodys(
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


# Many at once


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


def test_a_dead_publisher_of_other_bytes_is_in_nobodys_way(
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
