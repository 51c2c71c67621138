"""--enable_batching and the watches of the health service on a server; the contract suite has the rest."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from modelserver.conftest import wait_state
from modelserver.wire import Wire, eventually, model
from tfs_deploy.serving.codec import messages, tensors

pytestmark = pytest.mark.tensorflow

PARAMETERS = "max_batch_size { value: 4 } batch_timeout_micros { value: 20000 } num_batch_threads { value: 2 }"


@pytest.fixture(scope="module")
def batching(tmp_path_factory):
    path = tmp_path_factory.mktemp("batching") / "parameters"
    path.write_text(PARAMETERS)
    flags = ("--enable_batching", f"--batching_parameters_file={path}", "--enable_grpc_healthcheck_service")
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, *flags)) as server:
        yield server


@pytest.fixture
def wire(batching):
    connected = Wire(batching.target)
    yield connected
    connected.reload()
    connected.close()


def test_concurrent_answers_and_a_swap_under_load(wire, name, install):
    base = install("scale1", 1).parent
    wire.reload(model(name, base))
    stopped = threading.Event()

    def send(number: int) -> set[float]:
        seen = set()
        while not stopped.is_set():
            reply = wire.predict(name, x=[float(number), 1.0], outputs=("y",))
            y = tensors.to_array(reply.outputs["y"])
            assert y[0] == y[1] * number
            seen.add(float(y[1]))
        return seen

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(send, number) for number in range(2, 8)]
        install("scale2", 2, base)
        wait_state(wire, name, 1, "END")
        stopped.set()
        assert all(client.result(20) <= {1.0, 2.0} for client in clients)
    assert wire.states(name) == {1: "END", 2: "AVAILABLE"}


def test_parameters_of_its_own_and_none(tmp_path, install):
    path = tmp_path / "parameters"
    path.write_text("max_batch_size { value: 2 }")
    flags = ("--enable_batching", f"--batching_parameters_file={path}", "--enable_per_model_batching_parameters")
    base = install("several", 1).parent
    own = install("several", 2, base)
    (own / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    bad = install("several", 3, base)
    (bad / "batching_params.pbtxt").write_text("max_batch_size { value: 3 } allowed_batch_sizes: 2")
    unread = install("several", 4, base)
    (unread / "batching_params.pbtxt").write_text("max_batch_size: {")
    with EmbeddedServer((*RPC_DRIVEN_FLAGS, *flags)) as server:
        wire = Wire(server.target)
        wire.reload(model("m", base, 1, 2))
        eventually(lambda: wire.states("m") == {1: "AVAILABLE", 2: "AVAILABLE"})
        wire.predict("m", version=1, signature="spin", inputs={"n": np.int32(1)})
        four = {"a": np.ones(4, np.float32), "b": np.ones(4, np.int32)}
        assert wire.predict_error("m", version=2, signature="add", inputs=four)[1].endswith(
            "maximum input batch size 3"
        )
        wire.reload(model("m", base, 1, 2, 3, 4))
        assert wait_state(wire, "m", 3, "END") == (
            3, "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 2; expected 3",
        )  # fmt: skip
        assert wait_state(wire, "m", 4, "END") == (3, f"Invalid protobuf file: '{unread}/batching_params.pbtxt'")
        wire.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size { value: 4", "INVALID_ARGUMENT: Invalid protobuf file: '"),
        (None, "NOT_FOUND: "),
        ("num_batch_threads { value: 0 }", "INVALID_ARGUMENT: num_batch_threads must be positive"),
    ],
)
def test_parameters_with_which_the_server_does_not_start(tmp_path, install, text, reason):
    path = tmp_path / "parameters"
    if text is not None:
        path.write_text(text)
    base = install("scale1", 1).parent
    flags = (
        "--enable_batching", f"--batching_parameters_file={path}", f"--model_base_path={base}",
        "--max_num_load_retries=0",
    )  # fmt: skip
    with EmbeddedServer(flags, wait=False) as server:
        assert server.wait_until_ended(30) == 255
        assert reason in server.log()


def check(wire: Wire, service: str) -> bytes:
    request = messages.ModelSpec(name=service).SerializeToString()
    return wire.channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=10)


def test_watches_of_the_health(wire):
    watch = wire.channel.unary_stream("/grpc.health.v1.Health/Watch")
    known = messages.ModelSpec(name="ModelService").SerializeToString()
    held = [watch(known, timeout=30) for _ in range(8)]
    assert [next(one) for one in held] == [b"\x08\x01"] * 8
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(known, timeout=10))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert check(wire, "ModelService") == b"\x08\x01"
    for one in held:
        one.cancel()

    def unknown() -> bytes:
        try:
            return next(watch(messages.ModelSpec(name="x").SerializeToString(), timeout=1))
        except grpc.RpcError:
            return b""

    assert eventually(unknown) == b"\x08\x03"
