"""Arrays between the exporting process and its parent: one ``.npz`` of raw bytes and a JSON index.

NumPy's own format requires pickle for strings and loses bfloat16, so each array is stored as bytes with the name of its
dtype. Both processes import this module, which imports only the standard library and NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class ArrayFile:
    """Collects arrays under keys."""

    blobs: dict[str, Array] = field(default_factory=dict)

    def add(self, arrays: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
        """Add `arrays` and return their index, which is JSON: name to key, dtype and shape."""
        return {name: self._keep(np.asarray(array)) for name, array in arrays.items()}

    def save(self, path: Path) -> None:
        """Write the added arrays."""
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **self.blobs)

    def _keep(self, array: Array) -> dict[str, Any]:
        key = f"a{len(self.blobs)}"
        entry = {"key": key, "dtype": array.dtype.name, "shape": list(array.shape)}
        if array.dtype.kind in "OSU":
            items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
            self.blobs[key] = np.frombuffer(b"".join(items), np.uint8)
            return {**entry, "dtype": "string", "lengths": [len(item) for item in items]}
        self.blobs[key] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return entry


def load_arrays(path: Path) -> dict[str, Array]:
    """Return the raw bytes that `ArrayFile.save` wrote, by key."""
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def restore(index: Mapping[str, Mapping[str, Any]], blobs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of one index, strings as object arrays of bytes."""
    return {name: _restore(entry, blobs[entry["key"]].tobytes()) for name, entry in index.items()}


def _restore(entry: Mapping[str, Any], data: bytes) -> Array:
    if entry["dtype"] != "string":
        typed: Array = np.frombuffer(data, _dtype(entry["dtype"])).reshape(entry["shape"])
        return typed
    array: Array = np.empty(len(entry["lengths"]), object)
    start = 0
    for position, length in enumerate(entry["lengths"]):
        array[position] = data[start : start + length]
        start += length
    shaped: Array = array.reshape(entry["shape"])
    return shaped


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        # bfloat16 and the float8 family are known to NumPy once ml_dtypes is loaded.
        import ml_dtypes

        known: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return known
