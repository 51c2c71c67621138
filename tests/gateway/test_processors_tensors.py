"""Plain tensors: JSON to arrays of the declared dtype with nothing cast on the way, and back."""

from __future__ import annotations

import base64
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import BadAnswer, BadItem, Blob
from tfs_deploy.gateway.processors.registry import make_processor
from tfs_deploy.serving.signature import Signature, TensorSpec


def tensors(dtype: str = "float32", shape: Any = None, **options: Any) -> Any:
    return make_processor(
        ProcessorConfig(name="tensors", options={"inputs": {"x": {"dtype": dtype, "shape": shape}}, **options})
    )


@pytest.mark.parametrize(
    ("dtype", "item", "numpy"),
    [
        ("float32", [[1, 2.5], [3, -4]], np.float32),
        ("float64", 0.1, np.float64),
        ("float16", [1.5], np.float16),
        ("bfloat16", [1.5], ml_dtypes.bfloat16),
        ("int8", [-128, 127], np.int8),
        ("uint64", 2**64 - 1, np.uint64),
        ("int64", [[[2**63 - 1]]], np.int64),
        ("DT_INT32", [], np.int32),
        ("bool", [True, False], np.bool_),
    ],
)
def test_values_keep_their_dtype_and_shape(dtype: str, item: Any, numpy: Any) -> None:
    array = tensors(dtype).preprocess([item, item])["x"]
    assert array.dtype == numpy
    assert array.shape == (2, *np.shape(item))
    assert array[0].tolist() == item


@pytest.mark.parametrize(
    ("dtype", "item", "said"),
    [
        ("int32", 1.5, "a number with a fraction"),
        ("int32", 1.0, "a number with a fraction"),
        ("int32", [1, True], "a boolean"),
        ("int32", "1", "a string"),
        ("int8", 128, "from -128 to 127"),
        ("uint8", -1, "from 0 to 255"),
        ("int64", 2**63, "outside of int64"),
        ("float32", True, "a boolean"),
        ("float32", None, "null"),
        ("float32", "1.5", "a string"),
        ("float32", 1e39, "too large for float32"),
        ("float16", 70000, "too large for float16"),
        ("float64", 10**400, "too large for float64"),
        ("bool", 1, "a whole number"),
        ("string", 5, "a whole number"),
        ("string", {"b64": "!"}, "cannot be decoded"),
        ("string", "\ud800", "surrogate"),
        ("float32", [[1], [2, 3]], "different lengths"),
        ("float32", [1, [2]], "mixes lists and values"),
        ("float32", [[1], 2], "mixes lists and values"),
        ("float32", {"y": 1}, "an object with exactly 'x'"),
        ("float32", {"x": 1, "y": 1}, "an object with exactly 'x'"),
    ],
)
def test_nothing_is_cast_in_silence(dtype: str, item: Any, said: str) -> None:
    with pytest.raises(BadItem) as caught:
        tensors(dtype).preprocess([item])
    assert said in str(caught.value)


def test_depth_is_bounded() -> None:
    item: Any = 1.0
    for _ in range(10_000):
        item = [item]
    with pytest.raises(BadItem, match="more than 32 dimensions"):
        tensors().preprocess([item])


def test_shapes_are_compared() -> None:
    assert tensors(shape=[2, None]).preprocess([[[1, 2, 3], [4, 5, 6]]])["x"].shape == (1, 2, 3)
    with pytest.raises(BadItem, match=r"Item 1 has the shape \[3\] in 'x' where \[2\] is expected"):
        tensors(shape=[2]).preprocess([[1, 2], [1, 2, 3]])
    with pytest.raises(BadItem, match=r"Item 1 has the shape \[3\] in 'x', and item 0 has \[2\]"):
        tensors().preprocess([[1, 2], [1, 2, 3]])


def test_strings_are_bytes_whatever_they_hold() -> None:
    raw = bytes(range(256))
    array = tensors("string").preprocess([["é", {"b64": base64.b64encode(raw).decode()}, "nul\0"]])["x"]
    assert array.tolist() == [["é".encode(), raw, b"nul\0"]]
    blob = tensors("string", blobs=True)
    assert blob.takes_blobs
    assert blob.preprocess([Blob(raw)])["x"].tolist() == [raw]


def test_several_inputs_are_an_object() -> None:
    inputs = {"age": {"dtype": "int64", "shape": []}, "name": {"dtype": "string"}}
    processor = make_processor(ProcessorConfig(name="tensors", options={"inputs": inputs}))
    arrays = processor.preprocess([{"age": 3, "name": "a"}, {"name": "b", "age": 4}])
    assert arrays["age"].tolist() == [3, 4]
    assert arrays["name"].tolist() == [b"a", b"b"]
    for item in (5, {"age": 3}, Blob(b"")):
        with pytest.raises(BadItem, match="'age', 'name'"):
            processor.preprocess([item])


def test_the_signature_says_what_the_options_leave_out() -> None:
    processor: Any = make_processor(ProcessorConfig(name="tensors"))
    with pytest.raises(InvalidInput, match="inputs"):
        processor.preprocess([1])
    signature = Signature(
        {"a": TensorSpec("DT_INT32", (None, 2)), "o": TensorSpec("DT_FLOAT", None)}, {}, "", optional=("o",)
    )
    bound = processor.with_signature(signature)
    assert bound.preprocess([[1, 2]])["a"].dtype == np.int32
    with pytest.raises(BadItem, match=r"where \[2\] is expected"):
        bound.preprocess([[1, 2, 3]])
    fixed = tensors()
    assert fixed.with_signature(signature) is fixed


def test_answers_are_json_row_by_row() -> None:
    processor = tensors()
    assert processor.postprocess({"y": np.array([[1, 2], [3, 4]], np.int64)}) == [[1, 2], [3, 4]]
    assert processor.postprocess({"y": np.array([0.5], np.float16)}) == [0.5]
    assert processor.postprocess({"y": np.array([0.5], ml_dtypes.bfloat16)}) == [0.5]
    rows = processor.postprocess({"a": np.array([True]), "b": np.array([[b"x", b"\xff\0"]], object)})
    assert rows == [{"a": True, "b": ["x", {"b64": "/wA="}]}]
    # TF Serving's REST API treats this suffix the same way.
    assert processor.postprocess({"y_bytes": np.array([b"x"], object)}) == [{"b64": "eA=="}]


def test_floats_that_json_has_no_word_for_go_both_ways() -> None:
    values = [1.0, "NaN", "Infinity", "-Infinity"]
    array = tensors("float64").preprocess([values])["x"]
    assert np.isnan(array[0, 1])
    rows = tensors().postprocess({"y": array})
    assert rows == [values]
    json.dumps(rows, allow_nan=False)


def test_answers_without_rows_are_the_models_fault() -> None:
    for outputs in ({"y": np.float32(1).reshape(())}, {"a": np.zeros(2), "b": np.zeros(3)}, {}):
        with pytest.raises(BadAnswer, match="one row per item"):
            tensors().postprocess(outputs)
    assert tensors(outputs=["a"]).postprocess({"a": np.zeros(2), "b": np.zeros(3)}) == [0, 0]
    with pytest.raises(BadAnswer, match="no output 'c'; there are: a"):
        tensors(outputs=["c"]).postprocess({"a": np.zeros(2)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": {"x": {"dtype": "float31"}}}, "float31"),
        ({"inputs": {"x": {"dtype": "complex64"}}}, "complex64"),
        ({"inputs": {"x": {}}}, "dtype"),
        ({"inputs": {"x": {"dtype": "int8", "size": [1]}}}, "size"),
        ({"inputs": []}, "inputs"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match="'tensors'") as caught:
        make_processor(ProcessorConfig(name="tensors", options=options))
    assert said in str(caught.value)
