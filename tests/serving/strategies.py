"""Hypothesis strategies for arrays that a model server may be sent."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tfs_deploy.serving.codec import tensors

DTYPES = sorted(tensors.NUMPY_BY_NAME)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw: Any) -> np.ndarray:
    """Return an array of any served dtype with any bits in it, small, of rank 0 to 4, sometimes not contiguous."""
    name = draw(st.sampled_from(DTYPES))
    shape = draw(shapes)
    count = int(np.prod(shape))
    if name == "DT_STRING":
        array = np.empty(count, dtype=object)
        array[:] = draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count))
        array = array.reshape(shape)
    else:
        dtype = tensors.NUMPY_BY_NAME[name]
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        if name == "DT_BOOL":
            data = bytes(byte & 1 for byte in data)
        array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Tell whether two arrays have the same dtype, shape and bits; NaN equals NaN, whose spare bits may differ."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else _bits(left) == _bits(right)


def _bits(array: np.ndarray) -> bytes:
    numbers = array.reshape(-1)
    if numbers.dtype.kind == "c":
        numbers = numbers.view(f"f{numbers.dtype.itemsize // 2}")
    if numbers.dtype.kind not in "fV":
        return numbers.tobytes()
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.where(np.isnan(numbers), numbers.dtype.type(np.nan), numbers).tobytes()
