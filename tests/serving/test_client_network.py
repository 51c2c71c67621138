"""The real clients on real sockets: servers that are not there, are something else, or answer oddly."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import grpc
import numpy as np
import pytest

from fakes import FakeModelServer, FakeVersion
from serving.grpc_front import serve, serve_handlers
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, ModelServerError, TFSDeployError, Unreachable
from tfs_deploy.serving import client, rpc
from tfs_deploy.serving.codec.status import NOT_UTF8
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.group import TLSOptions
from tfs_deploy.serving.replies import VersionState
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

SECONDS = 20.0


def ask_sync(target: str, timeout: float, tls: TLSOptions | None) -> Any:
    with client.connect(target, tls=tls) as connected:
        return connected.status("m", timeout=timeout)


def ask_async(target: str, timeout: float, tls: TLSOptions | None) -> Any:
    async def ask() -> Any:
        async with client.connect_aio(target, tls=tls) as connected:
            return await connected.status("m", timeout=timeout)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def failure(request: pytest.FixtureRequest) -> Callable[..., TFSDeployError]:
    """Ask a target for a status and return the error."""

    def ask(target: str, timeout: float = SECONDS, tls: TLSOptions | None = None) -> TFSDeployError:
        with pytest.raises(TFSDeployError) as caught:
            request.param(target, timeout, tls)
        return caught.value

    return ask


@contextlib.contextmanager
def listener(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept TCP connections and give each to `handle`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=attend, args=(connection,), daemon=True).start()

        def attend(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(4096):
        connection.sendall(data)


def banner(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.recv(4096)


def http_1(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def test_nobody_listens(failure: Callable[..., TFSDeployError]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"127.0.0.1:{server.getsockname()[1]}"
    begin = time.monotonic()
    error = failure(target)
    assert isinstance(error, Unreachable)
    assert target in str(error)
    assert time.monotonic() - begin < SECONDS / 4  # told at once, not at the deadline


@pytest.mark.parametrize("handle", [echo, banner, http_1])
def test_something_else_listens(failure: Callable[..., TFSDeployError], handle: Callable[..., None]) -> None:
    with listener(handle) as target:
        error = failure(target)
    assert isinstance(error, ModelServerError)
    assert f"What listens at {target} does not speak gRPC" in error.cause
    assert "gRPC port" in error.remedy


def test_a_web_server_listens(failure: Callable[..., TFSDeployError]) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        error = failure(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()
    assert isinstance(error, ModelServerError)
    assert "does not speak gRPC" in error.cause


def test_somebody_listens_and_says_nothing(failure: Callable[..., TFSDeployError]) -> None:
    with listener(silent) as target:
        error = failure(target, timeout=0.5)
    assert isinstance(error, DeadlineExceeded)
    assert f"{target} did not finish GetModelStatus for model 'm' within 0.5 s" in error.cause


def test_a_grpc_server_without_these_services(failure: Callable[..., TFSDeployError]) -> None:
    with serve_handlers([]) as target:
        error = failure(target)
    assert isinstance(error, ModelServerError)
    assert error.code == "UNIMPLEMENTED"
    assert f"{target} speaks gRPC, but it does not offer GetModelStatus" in error.cause


def answering(data: bytes) -> list[Any]:
    """Return handlers that answer every method with `data`."""
    return [
        grpc.method_handlers_generic_handler(
            method.service, {method.name: grpc.unary_unary_rpc_method_handler(lambda request, context: data)}
        )
        for method in rpc.METHODS
    ]


def test_a_reply_that_is_no_message(failure: Callable[..., TFSDeployError]) -> None:
    with serve_handlers(answering(b"\xff\xff\xff")) as target:
        error = failure(target)
    assert isinstance(error, ModelServerError)
    assert error.code == "DATA_LOSS"
    assert target in error.cause
    assert "cannot be used" in error.cause


def test_an_empty_reply_to_predict_is_not_taken_for_an_answer() -> None:
    with (
        serve_handlers(answering(b"")) as target,
        client.connect(target) as connected,
        pytest.raises(ModelServerError, match=r"GetModelMetadata for model 'm' with a reply that cannot be used"),
    ):
        connected.predict("m", {"x": np.zeros(1, np.float32)}, timeout=SECONDS)


def test_another_services_error_is_quoted() -> None:
    server = FakeModelServer()
    with serve(server) as target, client.connect(target) as connected:
        server.fail_next("GetModelStatus", "OUT_OF_RANGE", "too many")
        with pytest.raises(ModelServerError, match=r"with OUT_OF_RANGE: too many\.") as caught:
            connected.status("m", timeout=SECONDS)
        assert caught.value.code == "OUT_OF_RANGE"
        assert connected.status("m", timeout=SECONDS) == ()


def test_a_reload_that_ran_out_of_time_is_unknown() -> None:
    server = FakeModelServer()
    with serve(server) as target, client.connect(target) as connected:
        config = to_proto([ModelEntry("m", "/models/without/versions", (1,))])
        with pytest.raises(DeadlineExceeded, match="in force is unknown"):
            connected.reload(config, timeout=SECONDS)


def test_a_status_message_that_is_not_utf_8_does_not_hide_the_states() -> None:
    server = FakeModelServer()
    server.put("/m", 1)
    server.put("/m", 2, FakeVersion(broken=b"Failed to parse warmup record: \xff\xfe", error_code="INVALID_ARGUMENT"))
    with serve(server) as target, client.connect(target) as connected:
        connected.reload(to_proto([ModelEntry("m", "/m", (1, 2))]), timeout=SECONDS)
        failed, good = connected.status("m", timeout=SECONDS)
    assert (good.version, good.state, good.error_message) == (1, VersionState.AVAILABLE, "")
    assert (failed.version, failed.state, failed.error_code) == (2, VersionState.END, "INVALID_ARGUMENT")
    assert failed.error_message == f"Failed to parse warmup record: \ufffd\ufffd {NOT_UTF8}"


def test_messages_beyond_grpcs_default_of_4_mib() -> None:
    signature = Signature(
        {"x": TensorSpec("DT_DOUBLE", (None, 3))}, {"x": TensorSpec("DT_DOUBLE", (None, 3))}, "predict"
    )
    server = FakeModelServer()
    server.put("/m", 1, FakeVersion(function=dict, signatures={DEFAULT_SIGNATURE: signature}))
    array = np.arange(3_000_000, dtype=np.float64).reshape(-1, 3)
    with serve(server) as target, client.connect(target) as connected:
        connected.reload(to_proto([ModelEntry("m", "/m", (1,))]), timeout=SECONDS)
        answer = connected.predict("m", {"x": array}, timeout=SECONDS)
    np.testing.assert_array_equal(answer.outputs["x"], array)


def test_a_server_that_comes_back_is_found_again() -> None:
    server = FakeModelServer()
    with serve(server) as target:
        connected = client.connect(target)
        assert connected.status("m", timeout=SECONDS) == ()
    with pytest.raises(Unreachable):
        connected.status("m", timeout=SECONDS)
    with serve(server, port=int(target.rpartition(":")[2])):
        end = time.monotonic() + SECONDS
        while True:
            try:
                assert connected.status("m", timeout=SECONDS) == ()
                break
            except Unreachable:
                assert time.monotonic() < end
                time.sleep(0.05)
    connected.close()


def test_many_threads_share_a_client() -> None:
    server = FakeModelServer()
    server.put("/m", 1)
    with serve(server) as target, client.connect(target) as connected:
        connected.reload(to_proto([ModelEntry("m", "/m", (1,))]), timeout=SECONDS)
        answers: list[float] = []

        def ask(number: int) -> None:
            answer = connected.predict("m", {"x": np.float32([number])}, timeout=SECONDS)
            answers.append(float(answer.outputs["y"][0]))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [number / 2 + 2 for number in range(16)]


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identity() -> tuple[bytes, bytes]:
    """A key and a self-signed certificate for ``serving.test``, PEM."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "serving.test")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("serving.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)


def test_tls_with_a_client_certificate(identity: tuple[bytes, bytes]) -> None:
    key, certificate = identity
    credentials = grpc.ssl_server_credentials([identity], certificate, require_client_auth=True)
    options = TLSOptions(certificate, key, certificate, "serving.test")
    assert "PRIVATE KEY" not in repr(options)
    with serve(FakeModelServer(), credentials=credentials) as target:
        assert ask_sync(target, SECONDS, options) == ()
        assert ask_async(target, SECONDS, options) == ()


@pytest.mark.parametrize("wrong", ["name", "root"])
def test_a_certificate_that_does_not_fit(
    failure: Callable[..., TFSDeployError], identity: tuple[bytes, bytes], wrong: str
) -> None:
    options = TLSOptions(
        root_certificates=None if wrong == "root" else identity[1],
        server_name="elsewhere.test" if wrong == "name" else "serving.test",
    )
    with serve(FakeModelServer(), credentials=grpc.ssl_server_credentials([identity])) as target:
        error = failure(target, tls=options)
    assert isinstance(error, ModelServerError)
    assert f"No TLS connection to {target}" in error.cause


def test_only_one_side_speaks_tls(failure: Callable[..., TFSDeployError], identity: tuple[bytes, bytes]) -> None:
    with serve(FakeModelServer(), credentials=grpc.ssl_server_credentials([identity])) as target:
        assert "TLS" in failure(target).remedy
    with serve(FakeModelServer()) as target:
        assert f"No TLS connection to {target}" in failure(target, tls=TLSOptions(identity[1])).cause


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (TLSOptions(root_certificates=b"/etc/ssl/root.pem"), "root certificates are not PEM"),
        (TLSOptions(private_key=b"-----BEGIN PRIVATE KEY-----"), "only one was given"),
    ],
)
def test_unusable_tls_options_are_refused(options: TLSOptions, complaint: str) -> None:
    for connect in (client.connect, client.connect_aio):
        with pytest.raises(InvalidInput, match=complaint):
            connect("127.0.0.1:8500", tls=options)
