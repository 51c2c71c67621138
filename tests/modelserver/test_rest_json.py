"""The REST API's JSON without a server: what is read, complaints, number formats, layouts, URLs, dtype rules."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.modelserver.rest import api
from tfs_deploy.modelserver.rest.json_reader import _Reader, parse
from tfs_deploy.modelserver.rest.json_writer import block, decimals, error_body, error_text, is_double
from tfs_deploy.modelserver.rest.predict import columns_body, rows_body
from tfs_deploy.modelserver.rest.tensors import TensorFiller, base64_bytes
from tfs_deploy.modelserver.status import Code, StatusError
from tfs_deploy.serving.codec import tensors

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_both_readers_agree_with_the_standard_library(value):
    text = json.dumps(value)
    read = parse(text.encode())
    assert read == _Reader(text.encode()).document()
    assert read == json.loads(text)


@given(st.binary(max_size=40))
def test_any_bytes_give_a_value_or_invalid_argument(data):
    try:
        parse(data)
    except StatusError as raised:
        error = raised
    else:
        return
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith("JSON Parse error: ")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"[NaN, Infinity, -Inf, Inf]", [math.nan, math.inf, -math.inf, math.inf]),
        (b"\xef\xbb\xbf 1", 1),
        (b"18446744073709551615", 2**64 - 1),
        (b'{"a": 1, "a": 2}', {"a": 1}),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"\xff"', "\udcff"),
    ],
)
def test_what_is_read(body, value):
    assert repr(parse(body)) == repr(value) or parse(body) == value


@pytest.mark.parametrize("body", [b"18446744073709551616", b"-9223372036854775809", b"1" * 308, b"1.0", b"1e2"])
def test_integers_beyond_64_bits_are_doubles(body):
    assert is_double(parse(body))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"instances = [1]", "Invalid value. at offset: 0"),
        (b"nulx", "Invalid value. at offset: 3"),
        (b"{} x", "The document root must not be followed by other values. at offset: 3"),
        (b"{1", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1', "Missing a comma or '}' after an object member. at offset: 7"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b'"abc', "Missing a closing quotation mark in string. at offset: 4"),
        (b'"\\x"', "Invalid escape character in string. at offset: 1"),
        (b'"\\u12g4"', "Incorrect hex digit after \\u escape in string. at offset: 1"),
        (b'"\\ud800"', "The surrogate pair in string is invalid. at offset: 1"),
        (b"[1e999]", "Number too big to be stored in double. at offset: 1"),
        (b"1.", "Miss fraction part in number. at offset: 2"),
        (b"1e", "Miss exponent in number. at offset: 2"),
        (b"Infinit", "Invalid value. at offset: 7"),
    ],
)
def test_what_is_wrong_and_where(body, complaint):
    with pytest.raises(StatusError) as raised:
        parse(body)
    assert raised.value.message == f"JSON Parse error: {complaint}"


@pytest.mark.parametrize(
    ("value", "float32", "float64"),
    [
        (2.0, "2.0", "2.0"),
        (-0.0, "-0.0", "-0.0"),
        (0.2, "0.2", "0.2"),
        (1 / 3, "0.333333343", "0.33333333333333331"),
        (9e6, "9e+06", "9e+06"),
        (3e-5, "3e-05", "3e-05"),
        (16777215.0, "16777215.0", "16777215.0"),
        (math.nan, "NaN", "NaN"),
        (-math.inf, "-Infinity", "-Infinity"),
    ],
)
def test_decimals(value, float32, float64):
    assert decimals(np.array([value], np.float32)) == [float32]
    assert decimals(np.array([value], np.float64)) == [float64]


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_decimals_give_the_same_float_again(values):
    array = np.array(values, np.float32)
    assert np.array([float(text) for text in decimals(array)], np.float32).tolist() == array.tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (math.nan, "NaN"),
        (None, "null"),
        ('a"\n\x01', '"a\\"\\n\\u0001"'),
        ([], "[]"),
        ({"a": [1, True]}, '{\n    "a": [\n        1,\n        true\n    ]\n}'),
        ([1e20, 1e21], "[\n    100000000000000000000.0,\n    1e21\n]"),
        ([1e-6, 1.5e-7], "[\n    0.000001,\n    1.5e-7\n]"),
        ([-1.5e18, 2**70], "[\n    -1500000000000000000.0,\n    1.1805916207174113e21\n]"),
        ([1, math.inf, 2], "[\n    1,\n    "),
    ],
)
def test_values_in_messages(value, text):
    assert error_text(value) == text


def test_error_body_and_empty_block():
    assert error_body('no "x"') == b'{\n    "error": "no \\"x\\""\n}'
    assert block([], 1, "[]") == "[]"


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ({"y": np.float32([2.5, 3])}, '{\n    "predictions": [2.5, 3.0\n    ]\n}'),
        ({"y": np.float32([[2.5, 3], [4, 5]])}, '{\n    "predictions": [[2.5, 3.0], [4.0, 5.0]\n    ]\n}'),
        ({"y": np.zeros((0, 2), np.float32)}, '{\n    "predictions": []\n}'),
        ({"y": np.zeros((2, 0), np.float32)}, '{\n    "predictions": [[], []\n    ]\n}'),
        (
            {"b": np.array([[1, 2]]), "a": np.array([True])},
            '{\n    "predictions": [\n        {\n            "a": true,\n            "b": [1, 2]\n        }\n    ]\n}',
        ),
        (
            {"y_bytes": np.array([b"\xff"], object)},
            '{\n    "predictions": [{\n            "b64": "/w=="\n        }\n    ]\n}',
        ),
    ],
)
def test_rows(outputs, body):
    assert rows_body(outputs).decode() == body


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ({"y": np.float32(2.5)}, '{\n    "outputs": 2.5\n}'),
        ({"y": b"a\x00"}, '{\n    "outputs": "a\\u0000"\n}'),
        (
            {"y": np.array([[1], [2]])},
            '{\n    "outputs": [\n        [\n            1\n        ],\n        [\n            2\n        ]\n    ]\n}',
        ),
        (
            {"b": np.array([1]), "a": np.int32(2)},
            '{\n    "outputs": {\n        "a": 2,\n        "b": [\n            1\n        ]\n    }\n}',
        ),
        (
            {"y_bytes": np.array([b"a"], object)},
            '{\n    "outputs": [\n        {\n            "b64": "YQ=="\n        }\n    ]\n}',
        ),
        ({"y": np.zeros((0,), np.float16)}, '{\n    "outputs": []\n}'),
    ],
)  # fmt: skip
def test_columns(outputs, body):
    assert columns_body(outputs).decode() == body


@pytest.mark.parametrize(
    ("make", "outputs", "complaint"),
    [
        (rows_body, {"n": np.float32(1)}, "Tensor name: n has no shape information "),
        (
            rows_body,
            {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)},
            "Tensor name: b has inconsistent batch size: 3 expecting: 2",
        ),
        (columns_body, {"y": np.zeros(1, np.float16)}, "Failed to write JSON value for tensor type: half"),
        (columns_body, {}, "Cannot convert empty tensor map to JSON"),
    ],
)
def test_outputs_that_json_cannot_carry(make, outputs, complaint):
    with pytest.raises(StatusError) as raised:
        make(outputs)
    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, complaint)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("DT_FLOAT", [[1, 2.5], [math.inf, 3]], [[1, 2.5], [math.inf, 3]]),
        ("DT_FLOAT", 16777215, 16777215),
        ("DT_UINT8", [256, 1, -1], [0, 1, 255]),
        ("DT_INT8", [128], [-128]),
        ("DT_UINT64", [2**64 - 1], [2**64 - 1]),
        ("DT_BOOL", [True, False], [True, False]),
        ("DT_STRING", ["a", {"b64": "/w=="}], [b"a", b"\xff"]),
        ("DT_DOUBLE", [], []),
    ],
)
def test_tensors_from_values(dtype, value, expected):
    filler = TensorFiller(tensors.dtype_number(dtype))
    _, shape = filler.add(value)
    array = filler.array(shape)
    assert array.tolist() == expected
    assert array.dtype == tensors.NUMPY_BY_NAME[dtype]


@pytest.mark.parametrize(
    ("dtype", "value", "code", "complaint"),
    [
        ("DT_FLOAT", ["x"], 3, 'JSON Value: "x" Type: String is not of expected type: float'),
        ("DT_FLOAT", [None], 3, "JSON Value: null Type: Null is not of expected type: float"),
        ("DT_FLOAT", [True], 3, "JSON Value: true Type: True is not of expected type: float"),
        ("DT_FLOAT", [16777216], 3, "Cannot convert JSON value: 16777216 to float without loss of precision."),
        ("DT_FLOAT", [1e39], 3, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        ("DT_INT32", [1.0], 3, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("DT_INT32", [2**31], 3, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("DT_BOOL", [1], 3, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("DT_STRING", [1], 3, "JSON Value: 1 Type: Number is not of expected type: string"),
        ("DT_HALF", [1.5], 12, "Conversion of JSON Value: 1.5 to type: half"),
        ("DT_UINT16", [1], 12, "Conversion of JSON Value: 1 to type: uint16"),
        ("DT_COMPLEX64", [1], 12, "Conversion of JSON Value: 1 to type: complex64"),
        ("DT_FLOAT", [1, [2]], 3, "Encountered list at unexpected level: 1 expected < 1"),
        ("DT_FLOAT", [[1], 2], 3, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ("DT_FLOAT", [[1], [2, 3]], 3, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ("DT_FLOAT", {"b64": "YQ=="}, 3,
         'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float'),
        ("DT_STRING", {"b64": 1}, 3, 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data'),
        ("DT_STRING", {"b64": "*"}, 3, "Unable to base64 decode"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(dtype, value, code, complaint):
    with pytest.raises(StatusError) as raised:
        TensorFiller(tensors.dtype_number(dtype)).add(value)
    assert (int(raised.value.code), raised.value.message) == (code, complaint)


@pytest.mark.parametrize("text", ["YWI=", "YWI", " Y W\nI = "])
def test_base64_is_read_generously(text):
    assert base64_bytes({"b64": text}) == b"ab"


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "/v1/models/m", api.RequestTarget("m", "")),
        ("GET", "/V1/Models/m/Versions/007", api.RequestTarget("m", "", version=7)),
        ("GET", "/v1/models/m/labels/a%20b/metadata", api.RequestTarget("m", "metadata", label="a b")),
        ("GET", "/v1/models/m/METADATA", api.RequestTarget("m", "")),
        ("GET", "/v1/models", api.RequestTarget("", "")),
        ("GET", "/v1/models/m?x=1", api.RequestTarget("m?x=1", "")),
        ("POST", "/v1/models/%C3%BC%2F:predict", api.RequestTarget("\u00fc/", "predict")),
        ("POST", "/v1/models/m/labels/stable:classify", api.RequestTarget("m", "classify", label="stable")),
    ],
)  # fmt: skip
def test_urls(method, path, target):
    assert api.is_served(path)
    assert api.parse_request_line(method, path) == target


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/m:PREDICT"), ("POST", "/v1/models/m:foo"), ("POST", "/v1/models/m"),
        ("GET", "/v1/models/m:predict"), ("PUT", "/v1/models/m:predict"), ("GET", "/v1/models/m/versions/x"),
        ("POST", "/v1/models/a/b:predict"), ("GET", "/v1/"),
    ],
)  # fmt: skip
def test_urls_that_mean_nothing(method, path):
    with pytest.raises(StatusError) as raised:
        api.parse_request_line(method, path)
    assert raised.value.message == f"Malformed request: {method} {path}"


def test_a_version_beyond_64_bits():
    with pytest.raises(api.BadVersion):
        api.parse_request_line("GET", "/v1/models/m/versions/9223372036854775808")


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/m", "/index.html"])
def test_paths_that_are_not_served(path):
    assert not api.is_served(path)
