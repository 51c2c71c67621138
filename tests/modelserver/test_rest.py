"""The REST API under a short timeout: bounds, long runs, exact counts; the contract suite tries what it answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer, free_port
from modelserver.rest_wire import Rest
from modelserver.wire import Wire, model, wait_state
from tfs_deploy.modelserver.rest.server import MAX_BODY_BYTES

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def wire(models, tmp_path_factory) -> Iterator[Wire]:
    base = tmp_path_factory.mktemp("rest")
    (base / "monitoring.config").write_text("prometheus_config { enable: true }")
    for name, source in {"m/3": "scale3", "m/2": "scale2", "s/1": "several", "r/1": "rest"}.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(models / source)
    port = free_port()
    flags = (
        *RPC_DRIVEN_FLAGS, f"--rest_api_port={port}", "--rest_api_timeout_in_ms=1500",
        f"--monitoring_config_file={base}/monitoring.config",
    )  # fmt: skip
    with EmbeddedServer(flags) as server:
        connected = Wire(server.target)
        connected.rest = Rest(port)  # type: ignore[attr-defined]
        connected.models = (
            model("m", base / "m", 2, 3, labels={"old one": 2}), model("s", base / "s"), model("r", base / "r"),
        )  # fmt: skip
        connected.reload(*connected.models)
        for version in (2, 3):
            wait_state(connected, "m", version, "AVAILABLE")
        yield connected
        connected.close()
        assert server.process is not None
        assert server.process.poll() is None, server.log()
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="module")
def rest(wire) -> Rest:
    return wire.rest


def test_a_body_longer_than_the_bound_is_refused(rest):
    reply = rest.call("POST", "/v1/models/m:predict", b"{}", **{"Content-Length": str(MAX_BODY_BYTES + 1)})
    assert reply.code == 400


def test_a_long_run_holds_up_no_other_call(rest):
    with ThreadPoolExecutor(3) as pool:
        spin = {"signature_name": "spin", "inputs": 2_000_000_000}
        long = [pool.submit(rest.post, "/v1/models/s:predict", spin) for _ in range(2)]
        time.sleep(0.2)
        assert rest.get("/v1/models/m").code == 200
        assert not any(call.done() for call in long)
        assert [call.result().code for call in long] == [504, 504]


def test_metrics(rest, wire):
    def value(line: str) -> int:
        page = rest.get("/monitoring/prometheus/metrics").body.decode()
        return sum(int(found.rpartition(" ")[2]) for found in page.splitlines() if found.startswith(line))

    failed = ':tensorflow:serving:request_count{model_name="r",status="INVALID_ARGUMENT"}'
    answered = ':tensorflow:serving:request_count{model_name="m",status="OK"}'
    by_grpc = ':tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"}'
    runs = ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"}'
    before = [value(line) for line in (failed, answered, by_grpc, runs)]
    rest.post("/v1/models/r:predict", {})
    rest.post("/v1/models/m:predict", {"inputs": [1.0]})
    wire.predict("m")
    wire.predict_error("m", signature="zz")
    after = [value(line) for line in (failed, answered, by_grpc, runs)]
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 2, 1, 2]
