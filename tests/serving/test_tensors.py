"""numpy <-> TensorProto without TensorFlow."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from serving.strategies import arrays, same
from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.serving.codec import messages, tensors


def proto(dtype: str, dims: list[int], **fields: Any) -> Any:
    message = messages.TensorProto(dtype=tensors.dtype_number(dtype), **fields)
    message.tensor_shape.SetInParent()
    for size in dims:
        message.tensor_shape.dim.add(size=size)
    return message


@given(arrays())
def test_every_array_survives_the_round_trip(array: np.ndarray) -> None:
    sent = messages.TensorProto.FromString(tensors.to_proto(array).SerializeToString())
    assert same(tensors.to_array(sent), array)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (proto("DT_FLOAT", [3], float_val=[1, 2]), np.float32([1, 2, 2])),
        (proto("DT_FLOAT", [3]), np.float32([0, 0, 0])),
        (proto("DT_FLOAT", [], float_val=[7]), np.float32(7)),
        (proto("DT_FLOAT", [2], float_val=[1, 2, 3]), np.float32([1, 2])),
        (proto("DT_FLOAT", [2], int_val=[1, 2]), np.float32([0, 0])),
        (proto("DT_FLOAT", [1], float_val=[1], tensor_content=b"\0\0\0\x40"), np.float32([2])),
        (proto("DT_FLOAT", [0, 3]), np.zeros((0, 3), np.float32)),
        (proto("DT_FLOAT", [0], tensor_content=b"1234"), np.zeros(0, np.float32)),
        (proto("DT_STRING", [0], tensor_content=b"1234"), np.zeros(0, object)),
        (proto("DT_DOUBLE", [1], double_val=[1.5]), np.float64([1.5])),
        (proto("DT_INT8", [2], int_val=[-1, 300]), np.int8([-1, 44])),
        (proto("DT_UINT8", [2], int_val=[255, -1]), np.uint8([255, 255])),
        (proto("DT_INT16", [1], int_val=[-5]), np.int16([-5])),
        (proto("DT_UINT16", [1], int_val=[65535]), np.uint16([65535])),
        (proto("DT_INT32", [1], int_val=[-(2**31)]), np.int32([-(2**31)])),
        (proto("DT_INT64", [1], int64_val=[2**63 - 1]), np.int64([2**63 - 1])),
        (proto("DT_UINT32", [1], uint32_val=[2**32 - 1]), np.uint32([2**32 - 1])),
        (proto("DT_UINT64", [1], uint64_val=[2**64 - 1]), np.uint64([2**64 - 1])),
        (proto("DT_BOOL", [3], bool_val=[True, False]), np.array([True, False, False])),
        (proto("DT_BOOL", [2], tensor_content=b"\x01\0"), np.array([True, False])),
        (proto("DT_HALF", [2], half_val=[0x3C00]), np.float16([1, 1])),
        (proto("DT_BFLOAT16", [1], half_val=[0xC000]), np.array([-2], ml_dtypes.bfloat16)),
        (proto("DT_COMPLEX64", [2], scomplex_val=[1, 2, 3, 4]), np.complex64([1 + 2j, 3 + 4j])),
        (proto("DT_COMPLEX64", [2], scomplex_val=[1, 2, 3]), np.complex64([1 + 2j, 1 + 2j])),
        (proto("DT_COMPLEX128", [1], dcomplex_val=[1, -1, 9, 9]), np.complex128([1 - 1j])),
        (proto("DT_STRING", [2], string_val=[b"\xff"]), np.array([b"\xff", b"\xff"], object)),
        (proto("DT_STRING", [2]), np.array([b"", b""], object)),
        (proto("DT_STRING", [1], string_val=[b"a", b"b"]), np.array([b"a"], object)),
        (proto("DT_STRING", [2], tensor_content=b"\x01\x02abb"), np.array([b"a", b"bb"], object)),
    ],
)
def test_typed_lists_are_read_by_tensorflows_rules(message: Any, expected: np.ndarray) -> None:
    assert same(tensors.to_array(message), np.asarray(expected))


def test_unknown_rank_without_content_is_a_scalar_as_in_tensorflow() -> None:
    message = messages.TensorProto(dtype=1, float_val=[3.0])
    message.tensor_shape.unknown_rank = True
    assert same(tensors.to_array(message), np.asarray(np.float32(3)))
    message.tensor_content = b"\0\0\0\x40"
    with pytest.raises(CorruptModel, match="unknown rank"):
        tensors.to_array(message)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (messages.TensorProto(), "dtype DT_INVALID"),
        (messages.TensorProto(dtype=20), "dtype DT_RESOURCE"),
        (messages.TensorProto(dtype=21), "dtype DT_VARIANT"),
        (messages.TensorProto(dtype=11), "dtype DT_QINT8"),
        (messages.TensorProto(dtype=101), "dtype DT_FLOAT_REF"),
        (messages.TensorProto(dtype=77), "dtype 77"),
        (proto("DT_FLOAT", [-1]), r"\[-1\] with a negative dimension"),
        (proto("DT_FLOAT", [-2, -2]), "negative dimension"),
        (proto("DT_FLOAT", [2], tensor_content=b"1234567"), "needs 8 bytes, but its content has 7"),
        (proto("DT_BOOL", [2], tensor_content=b"\x01\x02"), "the byte 2 in its content"),
        (proto("DT_FLOAT", [2**40, 2**40], tensor_content=b"1234"), "more than 2147483647 bytes"),
        (proto("DT_FLOAT", [2**62, 4]), "more than 2147483647 bytes"),
        (proto("DT_FLOAT", [0, 2**62, 4]), "more than 2147483647 bytes"),
        (proto("DT_STRING", [2**31]), "more than 2147483647 bytes"),
        (proto("DT_FLOAT", [1] * 40), "40 dimensions"),
        (proto("DT_STRING", [2], tensor_content=b"\x01\x02ab"), "not 5"),
        (proto("DT_STRING", [9], tensor_content=b"\x01"), "does not hold 9 strings"),
        (proto("DT_STRING", [1], tensor_content=b"\xff\xff\xff\xff\xff\xff\x01"), "does not hold 1 strings"),
    ],
)
def test_what_holds_no_array_is_refused(message: Any, complaint: str) -> None:
    with pytest.raises(CorruptModel, match=complaint):
        tensors.to_array(message)


def test_numbers_are_views_of_the_content() -> None:
    message = tensors.to_proto(np.arange(6, dtype=np.float32).reshape(2, 3))
    array = tensors.to_array(message)
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1, 2], dtype=">i4"), np.int32([1, 2])),
        (np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], np.float32([[0, 2], [3, 5]])),
        (np.array(["ä", ""]), np.array(["ä".encode(), b""], object)),
        (np.array([b"a", b"bc"]), np.array([b"a", b"bc"], object)),
        (np.array(["x", b"\xff"], dtype=object), np.array([b"x", b"\xff"], object)),
        ([b"a\0", b"\0"], np.array([b"a\0", b"\0"], object)),
        ("text", np.array(b"text", object)),
        (1.5, np.float64(1.5)),
        ([[1, 2]], np.int64([[1, 2]])),
        (np.longlong([3]), np.int64([3])),
    ],
)
def test_what_arrays_become(array: object, expected: Any) -> None:
    assert same(tensors.to_array(tensors.to_proto(array)), np.asarray(expected))


def test_dtype_says_what_lists_become_and_casts_no_array() -> None:
    assert same(tensors.to_array(tensors.to_proto([1, 2], "DT_FLOAT")), np.float32([1, 2]))
    assert tensors.to_proto([b"a\0"], "DT_STRING").string_val == [b"a\0"]
    with pytest.raises(InvalidInput, match="float64 is not DT_FLOAT"):
        tensors.to_proto(np.float64([1]), "DT_FLOAT")
    with pytest.raises(InvalidInput, match="DT_QINT8 are not supported"):
        tensors.to_proto([1], "DT_QINT8")
    with pytest.raises(InvalidInput, match="not a DT_INT8 tensor"):
        tensors.to_proto(["a"], "DT_INT8")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "datetime64"),
        (np.zeros(1, dtype=[("a", "i4")]), "dtype"),
        (np.zeros(1, dtype=ml_dtypes.float8_e5m2), "float8"),
        ([1, [2]], "not a tensor"),
        (np.array([1, None], dtype=object), "Element 0 of a DT_STRING tensor is a int"),
        (np.array(["\ud800"], dtype=object), "no UTF-8 form"),
    ],
)
def test_what_is_no_tensor_is_refused(value: object, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        tensors.to_proto(value)


def test_more_than_a_protobuf_message_holds_is_refused_before_it_is_copied() -> None:
    huge = np.broadcast_to(np.float32(0), (2**29,))  # 2 GiB seen, 4 bytes held
    with pytest.raises(InvalidInput, match="2147483648 bytes; one request holds at most 2147483647"):
        tensors.to_proto(huge)
