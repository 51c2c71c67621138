"""What REST answers: contract 8, 20.9 and 20.11."""

from __future__ import annotations

import base64
import gzip
import math

import pytest

pytestmark = pytest.mark.tensorflow

REGRESS = "regress_x_to_y"


def found_by(rest, path, body=None):
    reply = rest.get(path) if body is None else rest.post(path, body)
    assert reply.code == 200, reply.body
    return reply.json


def test_status(rest):
    rows = [
        {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in (3, 2)
    ]
    assert found_by(rest, "/v1/models/m") == {"model_version_status": rows}
    assert found_by(rest, "/v1/models/m/versions/2") == {"model_version_status": rows[1:]}
    # A label is ignored, as over gRPC.
    assert found_by(rest, "/v1/models/m/labels/nope") == {"model_version_status": rows}
    assert rest.get("/v1/models/m/versions/3").body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "3",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


def test_metadata(rest):
    found = found_by(rest, "/v1/models/m/versions/2/metadata")
    assert found["model_spec"] == {"name": "m", "signature_name": "", "version": "2"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert found_by(rest, "/v1/models/m/labels/stable/metadata")["model_spec"]["version"] == "2"


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
        ("s:predict", {"signature_name": "look_up", "inputs": ["one", "x"]},
         {"outputs": {"id": [1, -1], "word": ["one", "x"], "first": "one"}}),
        ("r:classify", {"signature_name": "classify", "examples": [{"x": 2.0}, {"n": [3], "s": "abcd"}]},
         {"results": [[['a "b"', 2.0], ['a "b"', 1.0]], [['a "b"', 7.0], ['a "b"', 3.5]]]}),
        ("r:regress",
         {"signature_name": "regress", "context": {"n": True}, "examples": [{"x": [2.5]}, {"s": {"b64": "YQ=="}}]},
         {"results": [3.5, 2.0]}),
    ],
)  # fmt: skip
def test_answers(rest, path, body, expected):
    assert found_by(rest, f"/v1/models/{path}", body) == expected


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


def test_text_that_is_not_utf8_comes_out_as_it_is(rest):
    reply = rest.post("/v1/models/r:predict", {"signature_name": "text", "inputs": {"b64": "/w=="}})
    raw, b64 = b'"raw": "\xff"', b'"raw_bytes": {\n            "b64": "/w=="\n        }'
    assert reply.body == b'{\n    "outputs": {\n        %b,\n        %b\n    }\n}' % (raw, b64)


def test_a_body_in_gzip(rest):
    packed = gzip.compress(b'{"inputs": [1]}')
    reply = rest.post("/v1/models/m:predict", packed, **{"Content-Encoding": "gzip"})
    assert (reply.code, reply.json) == (200, {"outputs": {"y": [3.0], "sum": 3.0}})
    # What is no gzip reads as nothing.
    reply = rest.post("/v1/models/m:predict", b'{"inputs": [1]}', **{"Content-Encoding": "gzip"})
    assert (reply.code, reply.json) == (400, {"error": "JSON Parse error: The document is empty"})


def test_bytes(rest):
    told = {"b64": base64.b64encode(b"\x00\xff").decode()}
    found = found_by(rest, "/v1/models/shapes:predict", {"inputs": [told, "text"], "signature_name": "echo"})
    assert [base64.b64decode(item["b64"]) for item in found["outputs"]] == [b"\x00\xff", b"text"]
    words = found_by(rest, "/v1/models/s:predict", {"inputs": [{"b64": "b25l"}], "signature_name": "look_up"})[
        "outputs"
    ]
    assert (words["id"], words["word"]) == ([1], ["one"])


def test_numbers_that_json_does_not_know(rest):
    body = '{"inputs": {"a": [NaN, Infinity, -Infinity], "b": [1, 2, 3]}, "signature_name": "pair"}'
    a = found_by(rest, "/v1/models/shapes:predict", body)["outputs"]["a2"]
    assert math.isnan(a[0])
    assert a[1:] == [math.inf, -math.inf]


def test_metrics(rest):
    assert rest.post("/v1/models/two:predict", {"instances": [[1.0]]}).code == 200
    assert rest.post("/v1/models/two:regress", {"signature_name": REGRESS, "examples": [{"x": 1.0}]}).code == 200
    page = rest.get("/monitoring/prometheus/metrics")
    assert (page.code, page.headers["Content-Type"]) == (200, "text/plain")
    lines = page.body.decode().splitlines()
    for start in (
        ':tensorflow:serving:request_count{model_name="two",status="OK"} ',
        ':tensorflow:serving:request_latency_bucket{model_name="two",API="predict",entrypoint="REST",le="10"} ',
        ':tensorflow:serving:runtime_latency_count{model_name="two",API="Predict",runtime="TF1"} ',
        ':tensorflow:serving:request_example_count_total{model="two"} ',
        "# TYPE :tensorflow:serving:request_example_counts histogram",
        ":tensorflow:cc:saved_model:load_attempt_count{model_path=",
    ):
        assert any(line.startswith(start) for line in lines), start
    strange = rest.get("/monitoring/prometheus/metrics?x")
    assert (strange.code, strange.body) == (
        400, b"Unexpected path: /monitoring/prometheus/metrics?x. Should be /monitoring/prometheus/metrics",
    )  # fmt: skip
