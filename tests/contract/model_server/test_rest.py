"""REST on the shared server: contract 8, 20.9 and 20.11."""

from __future__ import annotations

import base64
import http.client
import json
import math

import pytest

from modelserver.wire import Wire, model, wait_state

pytestmark = pytest.mark.tensorflow

HALF_PLUS_TWO = "half_plus_two_2_versions"
REGRESS = "regress_x_to_y"


class Rest:
    """Sends requests to one port; answers are (status, text)."""

    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = json.dumps(body) if isinstance(body, dict) else body
            connection.request(method, path, data)
            reply = connection.getresponse()
            return reply.status, reply.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def get(self, path):
        return self.send("GET", path)

    def post(self, path, body):
        return self.send("POST", path, body)

    def json(self, path, body=None):
        status, text = self.send("GET" if body is None else "POST", path, body)
        assert status == 200, text
        return json.loads(text)


@pytest.fixture(scope="module")
def rest(server, rest_port, models, other_models, model_root):
    base = model_root / "rest"
    base.mkdir()
    for name, source in {"m/2": "scale2", "m/3": "scale3", "shapes/1": "shapes", "examples/1": "examples"}.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(models / source)
    (base / "s").mkdir()
    (base / "s" / "1").symlink_to(models / "several")
    wire = Wire(server.target)
    configs = [model(name, base / name) for name in ("shapes", "examples", "s")]
    configs.append(model("two", other_models / HALF_PLUS_TWO))
    wire.reload(model("m", base / "m", 2, 3), *configs, timeout=60)
    for version in (2, 3):
        wait_state(wire, "m", version, "AVAILABLE")
    wire.reload(model("m", base / "m", 2, 3, labels={"stable": 2}), *configs, timeout=60)
    yield Rest(rest_port)
    wire.reload()
    wire.close()


def test_status(rest):
    rows = [
        {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in (3, 2)
    ]
    assert rest.json("/v1/models/m") == {"model_version_status": rows}
    assert rest.json("/v1/models/m/versions/2") == {"model_version_status": rows[1:]}
    # A label is ignored, as over gRPC.
    assert rest.json("/v1/models/m/labels/nope") == {"model_version_status": rows}
    _, text = rest.get("/v1/models/m")
    assert text.startswith('{\n "model_version_status": [\n  {\n   "version": "3",\n')


def test_metadata(rest):
    found = rest.json("/v1/models/m/versions/2/metadata")
    assert found["model_spec"] == {"name": "m", "signature_name": "", "version": "2"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert rest.json("/v1/models/m/labels/stable/metadata")["model_spec"]["version"] == "2"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("two:predict", {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        ("two:predict", {"inputs": [[1.0], [2.0]]}, {"outputs": [[2.5], [3.0]]}),
        ("two:predict", {"instances": [{"x": [1.0]}]}, {"predictions": [[2.5]]}),
        ("two:predict", {"inputs": {"x": [[1]]}, "signature_name": "serving_default"}, {"outputs": [[2.5]]}),
        ("m/versions/2:predict", {"inputs": [1, 2]}, {"outputs": {"y": [2.0, 4.0], "sum": 6.0}}),
        ("m/labels/stable:predict", {"inputs": [1]}, {"outputs": {"y": [2.0], "sum": 2.0}}),
        ("m:predict", {"inputs": [1]}, {"outputs": {"y": [3.0], "sum": 3.0}}),
        (
            "shapes:predict",
            {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}], "signature_name": "pair"},
            {"predictions": [{"a2": 2.0, "b2": 4.0}, {"a2": 6.0, "b2": 8.0}]},
        ),
        (
            "shapes:predict",
            {"inputs": {"a": [1], "b": [2]}, "signature_name": "pair"},
            {"outputs": {"a2": [2.0], "b2": [4.0]}},
        ),
        ("shapes:predict", {"inputs": 1, "signature_name": "scalar"}, {"outputs": 2.0}),
        ("shapes:predict", {"inputs": [256, 257], "signature_name": "small"}, {"outputs": [0, 1]}),
        ("two:regress", {"signature_name": REGRESS, "examples": [{"x": 1.0}, {"x": 2.0}]}, {"results": [2.5, 3.0]}),
        ("two:regress", {"signature_name": REGRESS, "context": {"x": 4.0}, "examples": [{}]}, {"results": [4.0]}),
        (
            "examples:classify",
            {"signature_name": "classify", "examples": [{"x": 0.25}]},
            {"results": [[["low", 0.75], ["high", 0.25]]]},
        ),
    ],
)  # fmt: skip
def test_answers(rest, path, body, expected):
    assert rest.json(f"/v1/models/{path}", body) == expected


def test_bodies_are_indented_by_four_spaces_and_whole_floats_keep_their_point(rest):
    status, text = rest.post("/v1/models/two:predict", {"instances": [[2.0]]})
    assert status == 200
    assert text.startswith('{\n    "predictions": [')
    assert "3.0" in text


def test_bytes(rest):
    told = {"b64": base64.b64encode(b"\x00\xff").decode()}
    found = rest.json("/v1/models/shapes:predict", {"inputs": [told, "text"], "signature_name": "echo"})
    assert [base64.b64decode(item["b64"]) for item in found["outputs"]] == [b"\x00\xff", b"text"]
    words = rest.json("/v1/models/s:predict", {"inputs": [{"b64": "b25l"}], "signature_name": "look_up"})["outputs"]
    assert (words["id"], words["word"]) == ([1], ["one"])


def test_numbers_that_json_does_not_know(rest):
    body = '{"inputs": {"a": [NaN, Infinity, -Infinity], "b": [1, 2, 3]}, "signature_name": "pair"}'
    a = rest.json("/v1/models/shapes:predict", body)["outputs"]["a2"]
    assert math.isnan(a[0])
    assert a[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("nope:predict", {"inputs": [1]}, 404, "Servable not found for request: Latest(nope)"),
        ("m/versions/9:predict", {"inputs": [1]}, 404, "Servable not found for request: Specific(m, 9)"),
        ("m/labels/zz:predict", {"inputs": [1]}, 400, "Unrecognized servable version label: zz"),
        (
            "m:predict",
            {"inputs": [1], "signature_name": "qq"},
            400,
            'Serving signature name: "qq" not found in signature def',
        ),
        ("m:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("m:predict", {"instances": [1]}, 400, "Tensor name: sum has no shape information "),
        ("m:foo", {"inputs": [1]}, 400, "Malformed request: POST /v1/models/m:foo"),
        ("m:PREDICT", {"inputs": [1]}, 400, "Malformed request: POST /v1/models/m:PREDICT"),
        (
            "shapes:predict",
            {"inputs": [1.5], "signature_name": "half"},
            501,
            "Conversion of JSON Value: 1.5 to type: half",
        ),
        (
            "two:regress",
            {"examples": [{"x": 1.0}], "signature_name": "zz"},
            400,
            "No signature was found with the name: zz",
        ),
    ],
)
def test_errors(rest, path, body, status, text):
    found = rest.post(f"/v1/models/{path}", body)
    assert (found[0], json.loads(found[1])) == (status, {"error": text})


@pytest.mark.parametrize("body", ["", "{", "[1]", '{"inputs": [1], "instances": [1]}', '{"instances": []}'])
def test_bodies_that_are_refused(rest, body):
    status, text = rest.post("/v1/models/m:predict", body)
    assert status == 400
    assert set(json.loads(text)) == {"error"}


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/m?x=1", 404, "Could not find any versions of model m?x=1"),
        ("/v1/models/m/versions/9", 404, "Could not find version 9 of model m"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/other", 400, "Malformed request: GET /v1/other"),
    ],
)
def test_errors_of_get(rest, path, status, text):
    found = rest.get(path)
    assert (found[0], json.loads(found[1])) == (status, {"error": text})


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/m"])
def test_outside_of_the_api(rest, path):
    status, text = rest.get(path)
    assert status == 404
    assert "html" in text.lower()


def test_options(rest):
    assert rest.send("OPTIONS", "/v1/models/m:predict") == (400, "")


def test_metrics(rest):
    assert rest.post("/v1/models/two:predict", {"instances": [[1.0]]})[0] == 200
    status, text = rest.get("/monitoring/prometheus/metrics")
    assert status == 200
    assert ':tensorflow:serving:request_count{model_name="two",status="OK"}' in text
