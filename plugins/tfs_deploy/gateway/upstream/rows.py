"""Requests of several clients as the rows of one, and one answer as those of several clients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfs_deploy.gateway.upstream.answer import Arrays

Kind = tuple[tuple[str, str, tuple[int, ...]], ...]


def kind_of(arrays: Arrays) -> Kind:
    """Return what requests must have in common to be joined: names, dtypes, all dimensions but the first."""
    return tuple((alias, array.dtype.str, array.shape[1:]) for alias, array in sorted(arrays.items()))


def join(requests: Sequence[Arrays]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the requests, which are of one kind, below each other."""
    if len(requests) == 1:
        return dict(requests[0])
    return {alias: np.concatenate([request[alias] for request in requests]) for alias in requests[0]}


def split(outputs: Arrays, counts: Sequence[int]) -> list[dict[str, npt.NDArray[np.generic]]] | None:
    """Return the outputs of each request, `counts[i]` rows of request i; None where they are not that many rows."""
    total = sum(counts)
    if any(not array.ndim or array.shape[0] != total for array in outputs.values()):
        return None
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    start = 0
    for count in counts:
        parts.append({alias: array[start : start + count] for alias, array in outputs.items()})
        start += count
    return parts
