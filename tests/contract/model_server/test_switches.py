"""Servers with a switch on: batching, TLS, method names, tensor_content, health: contract 10, 11, 20.1 and 20.11."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import grpc
import numpy as np
import pytest

from contract.model_server.place import RPC_DRIVEN_FLAGS
from contract.model_server.test_inference import classification
from modelserver.wire import Wire, model, predict_request
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import tensors

pytestmark = pytest.mark.tensorflow


def link(models, base, **sources):
    base.mkdir()
    for name, source in sources.items():
        (base / name).mkdir()
        (base / name / "1").symlink_to(models / source)
    return [model(name, base / name) for name in sources]


@pytest.fixture(scope="module")
def batching(start, models, model_root):
    """Batches of 4 rows at most, the method names of signatures checked, replies in tensor_content, XLA switched on."""
    base = model_root / "switches"
    configs = link(models, base, m="scale2", s="several", f="shapes", x="compiled")
    parameters = base / "batching.config"
    parameters.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 1000 }\n")
    flags = (
        "--enable_batching=true", f"--batching_parameters_file={parameters}",
        "--enable_signature_method_name_check=true",
        "--enable_serialization_as_tensor_content=true",
        "--xla_cpu_compilation_enabled=true",
    )  # fmt: skip
    with start(*RPC_DRIVEN_FLAGS, *flags) as server:
        wire = Wire(server.target)
        wire.reload(*configs, timeout=60)
        yield wire
        wire.close()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (
            {"model": "f", "signature": "scalar", "inputs": {"x": np.float32(1)}},
            "INVALID_ARGUMENT",
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            {"model": "s", "signature": "add", "inputs": {"a": np.float32([1, 2]), "b": np.int32([1])}},
            "INVALID_ARGUMENT",
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ({"model": "m", "x": [1] * 5}, "INVALID_ARGUMENT", "Task size 5 is larger than maximum input batch size 4"),
        ({"model": "m"}, "FAILED_PRECONDITION", "Batched output tensor has 0 dimensions"),
        (
            {"model": "m", "inputs": {"x": np.int32([1])}, "outputs": ("y",)},
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but int32 is provided",
        ),
    ],
)
def test_what_batching_refuses(batching, options, code, text):
    assert batching.predict_error(**options) == (code, text)


def test_concurrent_requests_get_their_own_rows(batching):
    found = {}

    def ask(number):
        reply = batching.predict("m", x=[number, number + 0.5], outputs=("y",))
        found[number] = tensors.to_array(reply.outputs["y"]).tolist()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [2.0 * number, 2.0 * number + 1] for number in range(24)}


def test_tensor_content(batching):
    output = batching.predict("m", x=[1, 2], outputs=("y",)).outputs["y"]
    assert (output.tensor_content, list(output.float_val)) == (np.float32([2, 4]).tobytes(), [])


def test_strings_in_tensor_content(batching):
    # All lengths, then all bytes, which Python's TensorFlow cannot decode; the server itself can.
    words = np.array([b"one", b"x\0"], object)
    output = batching.predict("f", signature="echo", inputs={"word": words}).outputs["word_bytes"]
    assert (output.tensor_content, list(output.string_val)) == (b"\x03\x02onex\0", [])
    assert batching.predict("f", signature="echo", inputs={"word": output}).outputs["word_bytes"] == output


def test_method_names_are_checked(batching):
    request = classification("f", "echo")
    assert batching.error(rpc.CLASSIFY, request) == (
        "INVALID_ARGUMENT",
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
        "tensorflow/serving/predict",
    )


def test_xla(batching, wire, name, install, place):
    """Off, unless a flag asks for it: a function with jit_compile=True fails then, and only at its first use."""
    for signature in ("compiled", "plain"):
        assert tensors.to_array(batching.predict("x", signature=signature).outputs["y"]).tolist() == [2.0]
    install("compiled", 1)
    wire.reload(model(name, place / "base"))
    assert wire.answer(name, signature="plain") == 2.0
    code, text = wire.predict_error(name, signature="compiled")
    assert code == "INTERNAL"
    assert text.startswith("XLA compilation disabled\n\t [[{{")


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_health(wire, service):
    """The standard service knows the names of the two services, and needs no model."""
    # HealthCheckRequest{service = 1} and HealthCheckResponse{status = 1: SERVING}.
    check = wire.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"\x0a" + bytes([len(service)]) + service.encode(), timeout=60) == b"\x08\x01"


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (b"\x0a\x01x", "NOT_FOUND", "service name unknown"),
        (b"\xff", "INVALID_ARGUMENT", "could not parse request"),
    ],
)
def test_health_of_what_nobody_has(wire, request_, code, text):
    with pytest.raises(grpc.RpcError) as failed:
        wire.channel.unary_unary("/grpc.health.v1.Health/Check")(request_, timeout=60)
    assert (failed.value.code().name, failed.value.details()) == (code, text)


def identity(common_name, issuer=None):
    """Return (key, certificate) as PEM, and what signs further ones."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    signing_key, signing_name = issuer or (key, name)
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(signing_name, name, key.public_key(), x509.random_serial_number(),
                                now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signing_key, hashes.SHA256())
    )  # fmt: skip
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM), (key, name)


def quoted(pem):
    return pem.decode().replace("\n", "\\n")


@pytest.mark.parametrize("verify", [True, False], ids=["client certificate", "server only"])
def test_tls(start, models, place, verify):
    _, authority, issuer = identity("authority.test")
    server_key, server_certificate, _ = identity("serving.test", issuer)
    client_key, client_certificate, _ = identity("client.test", issuer)
    ssl = place / "ssl.config"
    ssl.write_text(
        f'server_key: "{quoted(server_key)}"\nserver_cert: "{quoted(server_certificate)}"\n'
        f'custom_ca: "{quoted(authority)}"\nclient_verify: {str(verify).lower()}\n'
    )
    with start(*RPC_DRIVEN_FLAGS, f"--ssl_config_file={ssl}") as server:
        request = predict_request("nope")

        def ask(**mine):
            credentials = grpc.ssl_channel_credentials(authority, **mine)
            options = [("grpc.ssl_target_name_override", "serving.test")]
            with grpc.secure_channel(server.target, credentials, options) as channel:
                call = channel.unary_unary(rpc.PREDICT.path, request_serializer=type(request).SerializeToString)
                with pytest.raises(grpc.RpcError) as failed:
                    call(request, timeout=60)
                return failed.value.code().name

        assert ask(private_key=client_key, certificate_chain=client_certificate) == "NOT_FOUND"
        assert ask() == ("UNAVAILABLE" if verify else "NOT_FOUND")
        with grpc.insecure_channel(server.target) as plain:
            with pytest.raises(grpc.RpcError) as failed:
                plain.unary_unary(rpc.PREDICT.path)(request.SerializeToString(), timeout=60)
            assert failed.value.code().name == "UNAVAILABLE"
