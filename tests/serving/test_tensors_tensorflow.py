"""tensors.py against TensorFlow itself: its C++ reader of TensorProto, make_tensor_proto and make_ndarray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.strategies import arrays, same, shapes
from tfs_deploy.errors import CorruptModel
from tfs_deploy.serving.codec import messages, tensors

pytestmark = pytest.mark.tensorflow

LISTS = {
    "float_val": st.floats(width=32, allow_nan=False),
    "double_val": st.floats(allow_nan=False),
    "int_val": st.integers(-(2**31), 2**31 - 1),
    "half_val": st.integers(0, 0x7BFF),
    "string_val": st.binary(max_size=4),
    "scomplex_val": st.floats(width=32, allow_nan=False),
    "dcomplex_val": st.floats(allow_nan=False),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "uint32_val": st.integers(0, 2**32 - 1),
    "uint64_val": st.integers(0, 2**64 - 1),
    "bool_val": st.booleans(),
}


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@st.composite
def typed_lists(draw: Any) -> tuple[str, Any]:
    """Return a dtype and a TensorProto with one typed list of any length, mostly the one of that dtype."""
    name = draw(st.sampled_from(sorted(tensors.NUMPY_BY_NAME)))
    proto = messages.TensorProto(dtype=tensors.dtype_number(name))
    proto.tensor_shape.SetInParent()
    for size in draw(shapes):
        proto.tensor_shape.dim.add(size=size)
    own = "string_val" if name == "DT_STRING" else tensors._LISTS[name][0]
    field = draw(st.sampled_from([own, own, own, *LISTS]))
    getattr(proto, field).extend(draw(st.lists(LISTS[field], max_size=8)))
    if draw(st.integers(0, 5)) == 0:
        proto.tensor_content = draw(st.binary(max_size=32))
    return name, proto


@settings(deadline=None, max_examples=300)
@given(case=typed_lists())
def test_reads_what_tensorflows_own_reader_reads(tf: Any, case: tuple[str, Any]) -> None:
    name, proto = case
    try:
        parsed = tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype))
    except tf.errors.InvalidArgumentError:
        with pytest.raises(CorruptModel):
            tensors.to_array(proto)
        return
    expected = parsed.numpy()
    if name == "DT_STRING":
        expected = np.asarray(expected, dtype=object)
    assert same(tensors.to_array(proto), np.asarray(expected))


@settings(deadline=None, max_examples=200)
@given(array=arrays())
def test_writes_what_tensorflow_reads_and_reads_what_it_writes(tf: Any, array: np.ndarray) -> None:
    proto = tensors.to_proto(array)
    dtype = tf.dtypes.as_dtype(proto.dtype)
    parsed = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    assert same(np.asarray(parsed, dtype=array.dtype), array)
    written = tf.make_tensor_proto(array, dtype=dtype)
    assert same(tensors.to_array(messages.TensorProto.FromString(written.SerializeToString())), array)
