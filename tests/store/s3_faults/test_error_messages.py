"""What a user is told when the server says no, and what never is."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

from contract.staged_versions import check_whole, stage
from s3_proxy import Fault, Proxy
from s3_server import ACCESS_KEY, SECRET, SESSION_TOKEN, S3Server
from store.s3_faults.conftest import Open, Staged
from tfs_deploy.errors import (
    InvalidInput,
    StoreError,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

pytestmark = pytest.mark.faults


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
def test_an_error_of_the_server_has_a_remedy_and_no_secrets(
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


def test_nothing_that_is_logged_holds_a_secret_however_much_is_logged(
    through_proxy: Open, proxy: Proxy, uri: str, staged: Staged, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of every library
    store = through_proxy(max_retries=1)
    proxy.start_over(lambda request: Fault(status=503, code="SlowDown") if request.count % 9 == 0 else None)
    store.publish(*staged, "m")
    store.download("m", 1, target)
    proxy.start_over(lambda request: Fault(status=400, code="ExpiredToken"))
    with pytest.raises(StoreError, match="expired"):
        store.delete("m", 1)
    assert "tfs_deploy" in caplog.text
    for secret in (SECRET, SESSION_TOKEN, ACCESS_KEY):
        assert secret not in caplog.text


def test_options_and_stores_show_no_secret(server: S3Server, uri: str) -> None:
    options = server.options()
    store = open_store(uri, s3=options)
    for shown in (repr(options), str(options), repr(store), store.uri, repr(store.documents)):
        for secret in (SECRET, SESSION_TOKEN, ACCESS_KEY):
            assert secret not in shown
    assert store.uri == uri


@pytest.mark.parametrize("secret", ["abcdefgh", "abcd/efgh"])
@pytest.mark.parametrize("start", ["s3://", "S3://", "s3:/", "s3:///", "https://", "file://"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(start: str, secret: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_store(f"{start}{ACCESS_KEY}:{secret}@bucket/models")
    assert secret[:4] not in str(caught.value)
    assert secret[-4:] not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://{ACCESS_KEY}:abcdefgh@host:9000", f"{ACCESS_KEY}:abcdefgh@host"])
def test_a_secret_in_the_endpoint_is_refused_and_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput) as caught:
        S3Options(endpoint_url=url)
    assert "abcdefgh" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url if "//" in url else f"http://{url}")
    with pytest.raises(InvalidInput) as caught:
        open_store("s3://bucket/models", s3=S3Options(region="us-east-1"))
    assert "abcdefgh" not in str(caught.value)


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
        lambda: store.change_token("m"),
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
