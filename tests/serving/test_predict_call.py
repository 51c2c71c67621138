"""What a server reads from a PredictRequest is what the protobuf classes read, with fewer copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from serving.strategies import arrays, same
from serving.test_predict_wire import chunk, names, pieces_of, strange, tensor_bytes
from tfs_deploy.errors import CorruptModel
from tfs_deploy.serving.codec import messages, predict, tensors
from tfs_deploy.serving.codec.predict import decode_predict_request, encode_predict_request


@pytest.fixture(autouse=True)
def scan_small_requests_too(monkeypatch):
    monkeypatch.setattr(predict, "_SCAN_BYTES", 0)


def array_of(value: Any) -> np.ndarray | None:
    """Return the array that an input holds, None where it holds none."""
    if isinstance(value, np.ndarray):
        return value
    try:
        return tensors.to_array(value)
    except CorruptModel:
        return None


def check_same(data: bytes) -> None:
    try:
        expected = messages.PredictRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_predict_request(data)
        return
    found = decode_predict_request(data)
    assert (found.model_spec, found.has_spec) == (expected.model_spec, expected.HasField("model_spec"))
    assert list(found.output_filter) == list(expected.output_filter)
    assert set(found.inputs) == set(expected.inputs)
    for alias in expected.inputs:
        left, right = array_of(found.inputs[alias]), array_of(expected.inputs[alias])
        assert (left is None) == (right is None)
        assert left is None or same(left, right)


@st.composite
def request_bytes(draw: Any) -> bytes:
    """A PredictRequest as any writer might put it, with messages in several pieces."""
    parts = [chunk(3, alias.encode()) for alias in draw(st.lists(names, max_size=2))]
    for alias in draw(st.lists(names, max_size=3)):
        value = draw(st.one_of(tensor_bytes(), arrays().map(lambda array: tensors.to_proto(array).SerializeToString())))
        entry = [chunk(1, alias.encode()), chunk(2, value)]
        if draw(st.booleans()):
            entry += draw(pieces_of([*entry, draw(strange)]))
        parts.append(chunk(2, b"".join(entry)))
    spec = messages.ModelSpec(name=draw(names), version_label="l").SerializeToString()
    parts += draw(pieces_of([chunk(1, spec), chunk(1, b"\x0a\x01q"), draw(strange)]))
    return b"".join(draw(st.permutations(parts)))


@given(st.dictionaries(names, arrays(), max_size=3), st.lists(names, max_size=2))
def test_an_ordinary_request(inputs: dict, outputs: list[str]) -> None:
    data = encode_predict_request(messages.ModelSpec(name="m"), inputs, outputs)
    check_same(data)
    found = decode_predict_request(data)
    assert all(same(array_of(found.inputs[alias]), array) for alias, array in inputs.items())


@given(request_bytes())
def test_an_odd_request(data: bytes) -> None:
    check_same(data)


@given(request_bytes(), st.data())
def test_a_damaged_request(data: bytes, choice: Any) -> None:
    damaged = bytearray(data[: choice.draw(st.integers(0, len(data)))])
    if damaged and choice.draw(st.booleans()):
        damaged[choice.draw(st.integers(0, len(damaged) - 1))] = choice.draw(st.integers(0, 255))
    check_same(bytes(damaged))


@pytest.mark.parametrize("as_list", [True, False])
def test_numbers_are_views_of_the_request(as_list: bool) -> None:
    array = np.arange(5000, dtype=np.float32)
    request = messages.PredictRequest()
    request.inputs["x"].CopyFrom(tensors.to_proto(array))
    if as_list:
        request.inputs["x"].ClearField("tensor_content")
        request.inputs["x"].float_val.extend(array)
    data = request.SerializeToString()
    found = decode_predict_request(data).inputs["x"]
    assert same(found, array)
    assert np.shares_memory(found, np.frombuffer(data, dtype=np.uint8))
