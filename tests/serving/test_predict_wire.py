"""The fast paths of Predict give exactly what the protobuf classes give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from serving.strategies import DTYPES, arrays, same, shapes
from tfs_deploy.errors import CorruptModel, InvalidInput
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.predict import decode_predict_response, encode_predict_request

names = st.text(max_size=5).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def chunk(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def by_protobuf(data: bytes) -> tuple[Any, dict[str, np.ndarray]] | None:
    """Return what the ordinary way gives; None where it refuses."""
    try:
        response = messages.PredictResponse.FromString(data)
        return response.model_spec, {alias: tensors.to_array(proto) for alias, proto in response.outputs.items()}
    except (DecodeError, CorruptModel):
        return None


def check_same(data: bytes) -> None:
    expected = by_protobuf(data)
    if expected is None:
        with pytest.raises(CorruptModel):
            decode_predict_response(data)
        return
    spec, outputs = decode_predict_response(data)
    assert spec == expected[0]
    assert outputs.keys() == expected[1].keys()
    assert all(same(outputs[alias], expected[1][alias]) for alias in outputs)


# Fields that belong to no message here: unknown numbers of every wire type, and groups.
unknown = st.one_of(
    st.integers(0, 2**64 - 1).map(lambda value: varint(90 << 3) + varint(value)),
    st.binary(max_size=5).map(lambda payload: chunk(91, payload)),
    st.binary(min_size=4, max_size=4).map(lambda payload: varint(92 << 3 | 5) + payload),
    st.binary(min_size=8, max_size=8).map(lambda payload: varint(93 << 3 | 1) + payload),
    st.binary(max_size=5).map(lambda payload: varint(94 << 3 | 3) + chunk(1, payload) + varint(94 << 3 | 4)),
)
# Known numbers with a wrong wire type or text that is not UTF-8, field number 0, groups without an end, an open varint.
odd = st.sampled_from(
    [b"\x08\x01", b"\x0d\0\0\0\0", b"\x13\x08\x01\x14", b"\x0a\x01\xff", b"\x00\x00", b"\x1b", b"\x0f", b"\x80"]
)
strange = st.integers(0, 9).flatmap(lambda dice: odd if dice == 0 else unknown)


def pieces_of(parts: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Some of `parts`, in any order, some twice."""
    return st.lists(st.sampled_from(parts), max_size=len(parts) + 2) if parts else st.just([])


@st.composite
def tensor_bytes(draw: Any) -> bytes:
    """A TensorProto as any writer might put it: typed lists packed or not, content, twice, out of order."""
    name = draw(st.sampled_from(DTYPES))
    dims = draw(shapes)
    message = messages.TensorProto(dtype=tensors.dtype_number(name))
    message.tensor_shape.SetInParent()
    for size in dims:
        message.tensor_shape.dim.add(size=size)
    head = message.SerializeToString()
    floats = st.lists(st.floats(width=32), max_size=6)
    small = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6)
    field, values = draw(
        st.one_of(
            st.tuples(st.sampled_from(["float_val", "scomplex_val", "double_val", "dcomplex_val"]), floats),
            st.tuples(st.sampled_from(["int_val", "half_val", "int64_val"]), small),
            st.tuples(st.just("bool_val"), st.lists(st.booleans(), max_size=4)),
            st.tuples(st.just("string_val"), st.lists(st.binary(max_size=3), max_size=4)),
            st.tuples(st.sampled_from(["uint32_val", "uint64_val"]), st.lists(st.integers(0, 2**32 - 1), max_size=4)),
        )
    )
    listed = messages.TensorProto(**{field: values}).SerializeToString()
    loose = b"".join(b"\x2d" + np.float32(value).tobytes() for value in draw(st.lists(st.just(1.5), max_size=2)))
    content = chunk(4, tensors.to_proto(draw(arrays())).tensor_content)
    shape = chunk(2, messages.TensorShapeProto(unknown_rank=True).SerializeToString())
    extra = [listed, loose, content, shape, draw(strange), varint(3 << 3) + b"\x01"]
    parts = [head, listed, *draw(pieces_of(extra))]
    return b"".join(draw(st.permutations(parts)) if draw(st.booleans()) else parts)


@st.composite
def response_bytes(draw: Any) -> bytes:
    """A PredictResponse as any writer might put it, with messages in several pieces."""
    parts = []
    for alias in draw(st.lists(names, max_size=3)):
        value = draw(st.one_of(tensor_bytes(), arrays().map(lambda array: tensors.to_proto(array).SerializeToString())))
        entry = [chunk(1, alias.encode()), chunk(2, value)]
        if draw(st.booleans()):
            entry += draw(pieces_of([*entry, chunk(2, draw(tensor_bytes())), draw(strange)]))
        parts.append(chunk(1, b"".join(entry)))
    spec = messages.ModelSpec(name=draw(names), signature_name="s")
    spec.version.value = draw(st.integers(0, 99))
    parts.append(chunk(2, spec.SerializeToString()))
    if draw(st.booleans()):
        parts += draw(pieces_of([chunk(2, b"\x0a\x01q"), draw(strange)]))
    return b"".join(draw(st.permutations(parts)))


@given(st.dictionaries(names, arrays(), max_size=3), names, st.lists(names, max_size=2))
def test_a_request_is_what_protobuf_would_send(inputs: dict, model: str, outputs: list[str]) -> None:
    spec = messages.ModelSpec(name=model, signature_name="s")
    spec.version.value = 7
    data = encode_predict_request(spec, inputs, outputs)
    expected = messages.PredictRequest(model_spec=spec, output_filter=outputs)
    for alias, array in inputs.items():
        expected.inputs[alias].CopyFrom(tensors.to_proto(array))
    assert messages.PredictRequest.FromString(data) == expected
    if len(inputs) < 2:  # the order of map entries is not fixed
        assert data == expected.SerializeToString()


@given(st.dictionaries(names, arrays(), max_size=3))
def test_an_ordinary_response_is_read_as_protobuf_reads_it(outputs: dict) -> None:
    response = messages.PredictResponse()
    response.model_spec.name = "m"
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(tensors.to_proto(array))
    data = response.SerializeToString()
    check_same(data)
    assert all(same(array, outputs[alias]) for alias, array in decode_predict_response(data)[1].items())


@given(response_bytes())
def test_an_odd_response_is_read_as_protobuf_reads_it(data: bytes) -> None:
    check_same(data)


@pytest.mark.parametrize(
    "data",
    [
        chunk(1, chunk(2, b"\x08\x01\x22\x04ab") + chunk(2, b"cd")),  # a tensor cut within its content
        chunk(1, chunk(1, b"\xff") + chunk(1, b"")),  # a broken key that a good one replaces
        chunk(1, chunk(2, b"\x22\x09")) + chunk(1, chunk(2, b"\x08\x01\x2d\0\0\0\0")),  # a broken output, replaced
    ],
)
def test_broken_pieces_are_refused_though_the_rest_repairs_them(data: bytes) -> None:
    assert by_protobuf(data) is None
    check_same(data)


@given(response_bytes(), st.data())
def test_a_damaged_response_is_refused_exactly_where_protobuf_refuses(data: bytes, choice: Any) -> None:
    damaged = bytearray(data[: choice.draw(st.integers(0, len(data)))])
    if damaged and choice.draw(st.booleans()):
        damaged[choice.draw(st.integers(0, len(damaged) - 1))] = choice.draw(st.integers(0, 255))
    check_same(bytes(damaged))


@given(st.binary(max_size=40))
@example(b"")
@example(b"HTTP/1.1 400 Bad Request\r\n\r\n")
def test_any_bytes_give_an_answer_or_one_clear_error(data: bytes) -> None:
    check_same(data)


@pytest.mark.parametrize("name", ["DT_FLOAT", "DT_DOUBLE", "DT_COMPLEX64", "DT_COMPLEX128"])
@pytest.mark.parametrize("as_list", [True, False])
def test_large_numbers_are_views_of_the_reply(name: str, as_list: bool) -> None:
    array = np.arange(1000).astype(tensors.NUMPY_BY_NAME[name]).reshape(10, 100)
    message = tensors.to_proto(array)
    if as_list:
        part = array.view(np.float32 if name in ("DT_FLOAT", "DT_COMPLEX64") else np.float64)
        field = {"DT_FLOAT": "float_val", "DT_DOUBLE": "double_val", "DT_COMPLEX64": "scomplex_val"}
        message.ClearField("tensor_content")
        getattr(message, field.get(name, "dcomplex_val")).extend(part.reshape(-1))
    response = messages.PredictResponse()
    response.outputs["y"].CopyFrom(message)
    data = response.SerializeToString()
    (found,) = decode_predict_response(data)[1].values()
    assert same(found, array)
    assert np.shares_memory(found, np.frombuffer(data, dtype=np.uint8))
    assert not found.flags.writeable


def test_a_request_over_2_gib_is_refused_before_it_is_built() -> None:
    packed = np.zeros(2**30, dtype=np.uint8)  # never written: the pages are not there
    with pytest.raises(InvalidInput, match="at most 2147483647"):
        encode_predict_request(messages.ModelSpec(name="m"), {"a": packed, "b": packed})
    with pytest.raises(InvalidInput, match="at most 2147483647"):
        encode_predict_request(messages.ModelSpec(name="m"), {"a": np.broadcast_to(np.float32(0), (2**29,))})


def test_a_bad_output_is_named() -> None:
    response = messages.PredictResponse()
    response.outputs["scores"].CopyFrom(messages.TensorProto(dtype=20))
    with pytest.raises(CorruptModel, match=r"Output 'scores': A tensor has dtype DT_RESOURCE"):
        decode_predict_response(response.SerializeToString())
