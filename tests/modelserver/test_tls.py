"""--ssl_config_file: contract 11. Certificates of the test's own."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from tfs_deploy.errors import Permanent, Transient
from tfs_deploy.modelserver import text_config
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.group import TLSOptions

NOW = datetime.datetime.now(datetime.timezone.utc)


class Authority:
    """A CA that signs certificates for 127.0.0.1."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = self._signed(self._name, self._key, ca=True).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Return (key, certificate) as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return text, self._signed(subject, key, ca=False).public_bytes(serialization.Encoding.PEM)

    def _signed(self, subject, key, *, ca: bool):
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(hours=1))
            .not_valid_after(NOW + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )


AUTHORITY, STRANGER = Authority("test"), Authority("stranger")
SERVER_KEY, SERVER_CERTIFICATE = AUTHORITY.issue("localhost")
CLIENT_KEY, CLIENT_CERTIFICATE = AUTHORITY.issue("client")


def config_text(key=SERVER_KEY, certificate=SERVER_CERTIFICATE, ca=AUTHORITY.pem, verify=True) -> str:
    fields = {"server_key": key, "server_cert": certificate, "custom_ca": ca}
    lines = ['{}: "{}"'.format(name, pem.decode().replace("\n", "\\n")) for name, pem in fields.items() if pem]
    return "\n".join([*lines, f"client_verify: {str(verify).lower()}"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("server_key {", "Invalid protobuf file"),
        ("\n", "has no server_key"),
        (config_text(certificate=b""), "has no server_cert"),
        ('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"', "server_key in .* is not PEM"),
        (config_text(ca=b""), "client_verify and has no custom_ca"),
        (config_text(key=CLIENT_KEY.replace(b"A", b"B")), "cannot be used, or do not fit"),
        (config_text(key=CLIENT_KEY), "cannot be used, or do not fit"),
    ],
)
def test_a_file_that_no_handshake_would_succeed_with(tmp_path, text, sentence):
    path = tmp_path / "ssl.config"
    path.write_text(text)
    with pytest.raises(StatusError, match=sentence) as caught:
        text_config.ssl_credentials(str(path))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith("Failed to BuildAndStart gRPC server: ") is (text != "server_key {")
    assert "PRIVATE" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StatusError) as caught:
        text_config.ssl_credentials(str(tmp_path / "none"))
    assert caught.value.code is Code.NOT_FOUND


@pytest.fixture(scope="module")
def verifying(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    path = directory / "ssl.config"
    path.write_text(config_text())
    flags = (*RPC_DRIVEN_FLAGS, f"--ssl_config_file={path}", f"--grpc_socket_path={directory}/s")
    with EmbeddedServer(flags) as server:
        yield server, f"unix:{directory}/s"


@pytest.mark.tensorflow
def test_the_right_client_on_both_addresses(verifying):
    server, socket = verifying
    for target in (server.target, socket):
        tls = TLSOptions(AUTHORITY.pem, CLIENT_KEY, CLIENT_CERTIFICATE, "localhost")
        with connect(target, tls=tls) as client:
            assert client.status("nope", timeout=60) == ()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "tls",
    [
        None,
        TLSOptions(AUTHORITY.pem, None, None, "localhost"),
        TLSOptions(AUTHORITY.pem, *STRANGER.issue("client"), "localhost"),
        TLSOptions(STRANGER.pem, CLIENT_KEY, CLIENT_CERTIFICATE, "localhost"),
    ],
    ids=["no TLS", "no client certificate", "a stranger's certificate", "another CA for the server"],
)
def test_clients_that_are_turned_away(verifying, tls):
    server, socket = verifying
    for target in (server.target, socket):
        with connect(target, tls=tls) as client, pytest.raises((Transient, Permanent)) as caught:
            client.status("nope", timeout=60)
        assert target in str(caught.value)


@pytest.mark.tensorflow
@pytest.mark.parametrize("text", ["server_key {", config_text(key=CLIENT_KEY)])
def test_the_server_ends_with_a_sentence(tmp_path, text):
    path = tmp_path / "ssl.config"
    path.write_text(text)
    with EmbeddedServer((f"--ssl_config_file={path}", "--model_base_path=/x"), wait=False) as server:
        assert server.wait_until_ended(30) == 255
        assert "Failed to start server. Error: INVALID_ARGUMENT: " in server.log()
        assert str(path) in server.log()
        assert not server.answers()
