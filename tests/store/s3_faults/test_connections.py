"""TLS with a private certificate authority, virtual-hosted buckets, renewed credentials."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.staged_versions import check_whole, stage
from s3_proxy import Proxy, Request
from s3_server import ACCESS_KEY, BUCKET, SECRET, S3Server, moto_at, options_for
from store.s3_faults.conftest import Staged
from tfs_deploy.errors import InvalidInput, StoreError
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.open import open_store

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Authority:
    """A key, and its certificate, which it signed itself."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @staticmethod
    def new(name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(key, _signed(name, key, name, key, ca=True))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """Return the context of a server that this authority calls 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        certificate = _signed("server", key, name, self.key, ca=False)
        plain = serialization.NoEncryption()
        chain = folder / "server.pem"
        chain.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context


def _signed(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(by, hashes.SHA256())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("tests")


@pytest.fixture(scope="module")
def trusted(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trusted") / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture(scope="module")
def encrypted(authority: Authority, trusted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a bucket behind TLS, by its URL."""
    with moto_at(authority.server_context(tmp_path_factory.mktemp("server"))) as port:
        url = f"https://127.0.0.1:{port}"
        _client(url, verify=str(trusted)).create_bucket(Bucket=BUCKET)
        yield url


def _client(url: str, **more: object):
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.session.Session().client("s3", endpoint_url=url, **keys, **more)


@pytest.mark.parametrize("way", ["option", "environment"])
def test_an_authority_of_ones_own(
    encrypted: str,
    trusted: Path,
    staged: Staged,
    target: Path,
    transfer: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if way == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted))
    options = options_for(encrypted, transfer=transfer, ca_bundle=str(trusted) if way == "option" else None)
    store = open_store(f"s3://{BUCKET}/{transfer}-{way}", s3=options)
    assert store.publish(*staged, "m").created
    store.download("m", 1, target)
    manifests.verify(target, staged[1])


def test_a_bundle_of_many_is_enough(encrypted: str, authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "many.pem"
    bundle.write_bytes(Authority.new("stranger").pem + authority.pem)
    store = open_store(f"s3://{BUCKET}/many", s3=options_for(encrypted, ca_bundle=str(bundle)))
    assert store.publish(*stage(tmp_path / "staged"), "m").created
    with pytest.raises(InvalidInput, match="one only"):
        open_store(f"s3://{BUCKET}/many", s3=options_for(encrypted, ca_bundle=str(bundle), transfer="obstore"))


def test_an_untrusted_certificate_is_refused(encrypted: str, tmp_path: Path, transfer: str) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(Authority.new("stranger").pem)
    options = options_for(encrypted, ca_bundle=str(stranger), transfer=transfer, max_retries=0)
    store = open_store(f"s3://{BUCKET}/stranger", s3=options)
    with pytest.raises(StoreError, match="TLS certificate is not trusted") as caught:
        store.publish(*stage(tmp_path / "staged"), "m")
    assert "AWS_CA_BUNDLE" in caught.value.remedy
    careless = open_store(
        f"s3://{BUCKET}/stranger", s3=options_for(encrypted, verify_tls=False, transfer=transfer, max_retries=0)
    )
    assert careless.versions("m") == ()


def test_a_bundle_that_is_not_there_is_named(encrypted: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"CA bundle .*none\.pem"):
        open_store(f"s3://{BUCKET}/x", s3=options_for(encrypted, ca_bundle=str(tmp_path / "none.pem")))


@pytest.fixture
def named_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server reached by names that no resolver knows: it is the clients' proxy, and looks at the Host header."""
    with moto_at() as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield "http://s3.tests.internal"


def test_a_bucket_in_the_hosts_name(named_host: str, staged: Staged, target: Path, transfer: str) -> None:
    from botocore.config import Config

    client = _client(named_host, config=Config(s3={"addressing_style": "virtual"}))
    client.create_bucket(Bucket=BUCKET)
    options = options_for(named_host, transfer=transfer, path_style=False)
    store = open_store(f"s3://{BUCKET}/{transfer}", s3=options)
    assert store.publish(*staged, "m").created
    store.download("m", 1, target)
    manifests.verify(target, staged[1])
    keys = [row["Key"] for row in client.list_objects_v2(Bucket=BUCKET, Prefix=f"{transfer}/m/")["Contents"]]
    assert f"{transfer}/m/1/{manifests.MANIFEST_PATH}" in keys


@pytest.fixture
def renewing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make boto3's chain get keys that end soon from a program; return how often it was asked."""
    asked = tmp_path / "asked"
    program = tmp_path / "keys.py"
    soon = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=2)).isoformat()
    answer = {"Version": 1, "SecretAccessKey": SECRET, "SessionToken": "token", "Expiration": soon}
    program.write_text(
        "import json, pathlib\n"
        f"asked = pathlib.Path({str(asked)!r})\n"
        "with asked.open('a') as stream: stream.write('x')\n"
        f"print(json.dumps({{**{answer!r}, 'AccessKeyId': 'KEY%d' % len(asked.read_text())}}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {program}\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return lambda: len(asked.read_text()) if asked.exists() else 0


def test_keys_that_end_are_renewed_for_both_that_use_them(
    server: S3Server, proxy: Proxy, uri: str, tmp_path: Path, renewing: Callable[[], int], transfer: str, monkeypatch
) -> None:
    if transfer == "obstore":
        # Otherwise it asks again after some minutes only.
        monkeypatch.setattr("tfs_deploy.store.object_store.obstore_transfer._CREDENTIALS_FOR", datetime.timedelta(0))
    proxy.start_over()
    store = open_store(uri, s3=S3Options(endpoint_url=proxy.url, transfer=transfer, max_retries=0))
    assert store.publish(*stage(tmp_path / "staged"), "m").created
    assert renewing() > 1
    files = {request.key_id for request in proxy.requests if _is_file(request)}
    others = {request.key_id for request in proxy.requests if not _is_file(request)}
    assert all(key_id.startswith("KEY") for key_id in files | others)
    assert len(files) > 1, "the bytes went with keys that were not renewed"
    assert len(others) > 1
    assert check_whole(open_store(uri, s3=server.options()), "m") == (1,)


def _is_file(request: Request) -> bool:
    return request.method == "PUT" and "/m/1/" in request.path and "/.tfs_deploy/" not in request.path
