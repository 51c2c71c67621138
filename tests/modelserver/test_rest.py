"""The REST API of a running server: codes, error texts and bodies of contract 8, 20.9 and 20.11."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer, free_port
from modelserver.wire import Wire, model, wait_state
from tfs_deploy.modelserver.rest.server import MAX_BODY_BYTES

pytestmark = pytest.mark.tensorflow

MISSING_MODEL = "Servable not found for request: Latest(nope)"


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    code: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]


@dataclass(frozen=True)
class Rest:
    """Calls one REST port."""

    port: int

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return Reply(reply.status, reply.read(), reply.headers)
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read(), error.headers)

    def get(self, path: str) -> Reply:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        return self.call("POST", path, body)


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


def test_status(rest):
    reply = rest.get("/v1/models/m/versions/3")
    assert reply.code == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "3",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    # A label is ignored, even one that nobody knows.
    assert [row["version"] for row in rest.get("/v1/models/m/labels/zz").json["model_version_status"]] == ["3", "2"]


def test_metadata(rest):
    reply = rest.get("/v1/models/m/labels/old%20one/metadata")
    assert reply.code == 200
    assert reply.body.startswith(b'{\n"model_spec":{\n "name": "m",\n "version": "2",\n "signature_name": ""\n}\n,\n')
    signatures = reply.json["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    assert signatures["serving_default"]["inputs"] == {
        "x": {
            "name": "serving_default_x:0",
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        }
    }


@pytest.mark.parametrize(
    ("url", "body", "answer"),
    [
        ("m/versions/2:predict", {"inputs": [1, 2.5]}, {"outputs": {"y": [2.0, 5.0], "sum": 7.0}}),
        ("m/labels/old%20one:predict", {"inputs": {"x": [1.0]}}, {"outputs": {"y": [2.0], "sum": 2.0}}),
        ("r:predict", {"signature_name": "matrix", "instances": [[1, 2], [3, 4.5]]}, {"predictions": [[2, 4], [6, 9]]}),
        ("r:predict", {"signature_name": "matrix", "instances": [{"x": [1]}]}, {"predictions": [[2.0]]}),
        ("r:predict", {"signature_name": "small", "inputs": [256, 7]}, {"outputs": [0, 7]}),
        ("r:predict", {"signature_name": "small", "instances": [256, 7]}, {"predictions": [0, 7]}),
        (
            "r:predict",
            {"signature_name": "several",
             "instances": [{"d": 0.1, "i": -9, "b": True}, {"d": 2, "i": 2**60, "b": False}]},
            {"predictions": [{"d": 0.1, "i": -9, "b": True}, {"d": 2.0, "i": 2**60, "b": False}]},
        ),
        (
            "r:predict",
            {"signature_name": "text", "instances": ["a", {"b64": "Yg=="}]},
            {"predictions": [{"raw": "a", "raw_bytes": {"b64": "YQ=="}}, {"raw": "b", "raw_bytes": {"b64": "Yg=="}}]},
        ),
        ("r:predict", {"signature_name": "text", "inputs": {"b64": "/w=="}}, None),
        ("s:predict", {"signature_name": "look_up", "inputs": ["one", "x"]},
         {"outputs": {"id": [1, -1], "word": ["one", "x"], "first": "one"}}),
        ("r:classify", {"signature_name": "classify", "examples": [{"x": 2.0}, {"n": [3], "s": "abcd"}]},
         {"results": [[['a "b"', 2.0], ['a "b"', 1.0]], [['a "b"', 7.0], ['a "b"', 3.5]]]}),
        ("r:regress",
         {"signature_name": "regress", "context": {"n": True}, "examples": [{"x": [2.5]}, {"s": {"b64": "YQ=="}}]},
         {"results": [3.5, 2.0]}),
    ],
)  # fmt: skip
def test_answers(rest, url, body, answer):
    reply = rest.post(f"/v1/models/{url}", body)
    assert reply.code == 200, reply.body
    if answer is None:  # bytes that are not UTF-8 come out as they are
        raw, b64 = b'"raw": "\xff"', b'"raw_bytes": {\n            "b64": "/w=="\n        }'
        assert reply.body == b'{\n    "outputs": {\n        %b,\n        %b\n    }\n}' % (raw, b64)
    else:
        assert reply.json == answer


def test_bodies_to_the_byte(rest):
    matrix = {"signature_name": "matrix", "instances": [[float("nan")], [float("-inf")]]}
    assert rest.post("/v1/models/r:predict", matrix).body == b'{\n    "predictions": [[NaN], [-Infinity]\n    ]\n}'
    examples = {"signature_name": "regress", "examples": [{"x": 0.1}, {"n": 2}]}
    assert rest.post("/v1/models/r:regress", examples).body == b'{\n    "results": [0.1, 2.0]\n}'
    examples["signature_name"] = "classify"
    rows = b'[["a \\"b\\"", 0.1], ["a \\"b\\"", 0.05]], [["a \\"b\\"", 2.0], ["a \\"b\\"", 1.0]]'
    assert rest.post("/v1/models/r:classify", examples).body == b'{\n    "results": [%b\n    ]\n}' % rows
    assert rest.post("/v1/models/nope:predict", {"instances": [1]}).body == (
        b'{\n    "error": "Servable not found for request: Latest(nope)"\n}'
    )


@pytest.mark.parametrize(
    ("method", "url", "body", "code", "text"),
    [
        ("GET", "models/nope", None, 404, "Could not find any versions of model nope"),
        ("GET", "models/m/versions/9", None, 404, "Could not find version 9 of model m"),
        ("GET", "models/m?x=1", None, 404, "Could not find any versions of model m?x=1"),
        ("GET", "models", None, 400, "Missing model name in request."),
        ("GET", "models/nope/metadata", None, 404, MISSING_MODEL),
        ("GET", "models/m/labels/zz/metadata", None, 400, "Unrecognized servable version label: zz"),
        ("POST", "models/m:foo", {}, 400, "Malformed request: POST /v1/models/m:foo"),
        ("POST", "models/m:PREDICT", {}, 400, "Malformed request: POST /v1/models/m:PREDICT"),
        ("DELETE", "models/m", None, 400, "Malformed request: DELETE /v1/models/m"),
        ("POST", "models/nope:predict", {"instances": [1]}, 404, MISSING_MODEL),
        ("POST", "models/nope:classify", {"examples": [{}]}, 404, MISSING_MODEL),
        ("POST", "models/m/versions/9:predict", {"instances": [1]}, 404,
         "Servable not found for request: Specific(m, 9)"),
        ("POST", "models/m/labels/zz:predict", {"instances": [1]}, 400, "Unrecognized servable version label: zz"),
        ("POST", "models/m:predict", {"signature_name": "qq", "instances": [1]}, 400,
         'Serving signature name: "qq" not found in signature def'),
        ("POST", "models/m:regress", {"signature_name": "qq", "examples": [{}]}, 400,
         "No signature was found with the name: qq"),
        ("POST", "models/m:predict", {"signature_name": 1}, 400,
         'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
         "'signature_name' key must be a string value."),
        ("POST", "models/m:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("POST", "models/m:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("POST", "models/m:predict", b"[]", 400, "JSON Value: [] Is not object"),
        ("POST", "models/m:predict", {"instances": []}, 400,
         "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ("POST", "models/m:predict", {"instances": 1}, 400,
         "JSON Value: {\n    \"instances\": 1\n} Excepting 'instances' to be an list/array"),
        ("POST", "models/m:predict", {"instances": [1], "inputs": [1]}, 400,
         'JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": [\n        1\n    ]\n} Not formatted '
         "correctly expecting only one of 'inputs' or 'instances' keys to exist "),
        ("POST", "models/m:predict", {"instances": ["x"]}, 400,
         "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
         'JSON Value: "x" Type: String is not of expected type: float'),
        ("POST", "models/m:predict", {"instances": [1, {"x": 1}]}, 400,
         "Expecting value/list but got object at item 1 of input list"),
        ("POST", "models/m:predict", {"instances": [{"x": 1}, 1]}, 400,
         "Expecting object but got list at item 1 of input list"),
        ("POST", "models/m:predict", {"instances": [{"q": 1}]}, 400,
         "Failed to process element: 0 key: q of 'instances' list. Error: INVALID_ARGUMENT: "
         "JSON object: does not have named input: q"),
        ("POST", "models/r:predict", {"signature_name": "several", "instances": [{"d": 1}]}, 400,
         "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"d\": 1\n} keys must be equal to: "
         "b,d,i"),
        ("POST", "models/r:predict", {"signature_name": "several", "instances": [1]}, 400,
         "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
         "tensorinfo_map"),
        ("POST", "models/r:predict", {"signature_name": "several", "inputs": {"d": 1}}, 400,
         "Missing named input: b in 'inputs' object."),
        ("POST", "models/r:predict", {"signature_name": "matrix", "instances": [[1], [1, 2]]}, 400,
         "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting tensor size: 1 but got: 2"),
        ("POST", "models/r:predict", {"signature_name": "half", "inputs": [1.5]}, 501,
         "Conversion of JSON Value: 1.5 to type: half"),
        ("POST", "models/m:predict", {"instances": [1.0]}, 400, "Tensor name: sum has no shape information "),
        ("POST", "models/s:predict", {"signature_name": "dtypes", "inputs": [1.0]}, 400,
         "Failed to write JSON value for tensor type: bfloat16"),
        ("POST", "models/s:predict", {"signature_name": "spin", "inputs": 2_000_000_000}, 504, None),
        ("POST", "models/r:classify", {"signature_name": "classify"}, 400,
         "JSON Value: {\n    \"signature_name\": \"classify\"\n} When method is classify, key 'examples' is expected "
         "and was not found"),
        ("POST", "models/r:regress", {"examples": []}, 400,
         "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ("POST", "models/r:regress", {"examples": [1]}, 400, "Example must be JSON object but got JSON Number"),
        ("POST", "models/r:regress", {"examples": [{"x": None}]}, 400,
         "Feature: x has element with unexpected JSON type: Null"),
        ("POST", "models/r:regress", {"examples": [{"x": [1.5, 1]}]}, 400,
         "Unexpected element type in feature: x expecting type: float"),
        ("POST", "models/r:regress", {"examples": [{"x": 2**63}]}, 400,
         "Feature: x has uint64 element. Only int64 is supported."),
    ],
)  # fmt: skip
def test_errors(rest, method, url, body, code, text):
    reply = rest.call(method, f"/v1/{url}", body)
    assert reply.headers["Content-Type"] == "application/json"
    if text is not None:
        assert reply.error == text
    assert reply.code == code


def test_what_has_no_json_answer(rest):
    outside = rest.get("/v1")
    assert (outside.code, outside.headers["Content-Type"]) == (404, "text/html")
    assert b"<TITLE>404 Not Found</TITLE>" in outside.body
    assert rest.get("/").code == 404
    for origin, code in (({}, 400), ({"Origin": "http://localhost"}, 200)):
        preflight = rest.call("OPTIONS", "/v1/models/m:predict", **origin)
        assert (preflight.code, preflight.body, preflight.headers["Access-Control-Allow-Origin"]) == (code, b"", None)
    too_big = rest.get("/v1/models/m/versions/99999999999999999999")
    assert (too_big.code, too_big.body) == (400, b"")


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
    assert value(":tensorflow:cc:saved_model:load_attempt_count{") >= 4
    page = rest.get("/monitoring/prometheus/metrics")
    assert page.headers["Content-Type"] == "text/plain"
    assert "# TYPE :tensorflow:serving:request_latency histogram\n" in page.body.decode()
    strange = rest.get("/monitoring/prometheus/metrics?x")
    assert (strange.code, strange.body) == (
        400, b"Unexpected path: /monitoring/prometheus/metrics?x. Should be /monitoring/prometheus/metrics",
    )  # fmt: skip
