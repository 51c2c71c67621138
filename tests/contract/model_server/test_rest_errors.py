"""What REST refuses, and with which words: contract 8, 20.9 and 20.11."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.tensorflow

MISSING_MODEL = "Servable not found for request: Latest(nope)"


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
    assert (reply.code, reply.json) == (code, {"error": text})
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b" \n", "The document is empty. at offset: 2"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1', "Missing a comma or '}' after an object member. at offset: 7"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b'{"inputs": [+Infinity]}', "Invalid value. at offset: 12"),
        (b'{"inputs": [nul]}', "Invalid value. at offset: 15"),
        (b'{"inputs": [1.]}', "Miss fraction part in number. at offset: 14"),
        (b'{"inputs": [1e]}', "Miss exponent in number. at offset: 14"),
        (b'{"inputs": [1e400]}', "Number too big to be stored in double. at offset: 12"),
        (b'{"inputs": ["\\x"]}', "Invalid escape character in string. at offset: 13"),
        (b'{"inputs": ["a]}', "Missing a closing quotation mark in string. at offset: 16"),
        (b"{} {}", "The document root must not be followed by other values. at offset: 3"),
    ],
)
def test_what_is_not_json(rest, body, text):
    reply = rest.post("/v1/models/m:predict", body)
    assert (reply.code, reply.json) == (400, {"error": f"JSON Parse error: {text}"})


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v2/models/m", 404),
        ("POST", "/", 404),
        # No URI, for the HTTP library of TF Serving.
        ("GET", '/v1/models/"m"', 400),
        ("GET", "/v1/models/{m}", 400),
        ("GET", "/v1/models/m%zz", 400),
        ("TRACE", "/v1/models/m", 501),
    ],
)
def test_what_the_api_never_sees(rest, method, path, code):
    reply = rest.call(method, path)
    assert (reply.code, reply.headers["Content-Type"]) == (code, "text/html")
    assert f"<TITLE>{code} ".encode() in reply.body


def test_a_number_that_is_no_version(rest):
    reply = rest.get("/v1/models/m/versions/99999999999999999999")
    assert (reply.code, reply.body) == (400, b"")


def test_options(rest):
    for origin, code in (({}, 400), ({"Origin": "http://localhost"}, 200)):
        preflight = rest.call("OPTIONS", "/v1/models/m:predict", **origin)
        assert (preflight.code, preflight.body) == (code, b"")
        assert "Access-Control-Allow-Origin" not in preflight.headers
