"""Labelled examples: named input arrays with one label per row, from a NumPy ``.npz`` file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.errors import InvalidInput, NotFound

LABELS = "labels"
_REMEDY = "Write it with numpy.savez(path, labels=..., INPUT=...), one array per input, no Python objects."


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """Input arrays by input name, and the labels; every array has one row per example."""

    inputs: dict[str, np.ndarray[Any, Any]]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.labels)


def read_labelled(path: Path) -> LabelledSet:
    """Read the labelled examples of `path`.

    Raises NotFound without the file; InvalidInput for another format, no labels, no inputs, no rows, or arrays
    that differ in length.
    """
    arrays = read_arrays(path)
    labels = arrays.pop(LABELS, None)
    if labels is None:
        raise InvalidInput(f"{str(path)!r} has no array called {LABELS!r}.", _REMEDY)
    if not arrays:
        raise InvalidInput(f"{str(path)!r} has labels, but no inputs.", _REMEDY)
    rows = _rows({**arrays, LABELS: labels}, path)
    if rows == 0:
        raise InvalidInput(f"{str(path)!r} holds no examples.", _REMEDY)
    return LabelledSet(arrays, labels)


def read_samples(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read sample inputs: as `read_labelled`, but labels are optional and left out."""
    arrays = read_arrays(path)
    arrays.pop(LABELS, None)
    if not arrays or _rows(arrays, path) == 0:
        raise InvalidInput(f"{str(path)!r} holds no sample inputs.", _REMEDY)
    return arrays


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays of the ``.npz`` file `path`; pickled objects are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise InvalidInput(f"{str(path)!r} holds one array without a name.", _REMEDY)
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no file {str(path)!r}.", "Name an existing .npz file.") from error
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise InvalidInput(f"{str(path)!r} is not a usable .npz file: {error}.", _REMEDY) from error


def _rows(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> int:
    counts = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if None in counts.values() or len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise InvalidInput(f"The arrays of {str(path)!r} must have the same number of rows, not: {listed}.", _REMEDY)
    return len(next(iter(arrays.values())))
