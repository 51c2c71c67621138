"""Blank what must not be kept: inputs and outputs, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from tfs_deploy.gateway.capture.record import CapturedRequest


def redacted(request: CapturedRequest, names: Collection[str]) -> CapturedRequest:
    """Return `request` without the values of the inputs and outputs `names`.

    An input keeps its dtype and shape, zeros or empty strings in it, so that the request can still warm a model up.
    Its answer goes then, all of it: it would tell of what was asked, and no model answers the blanks like that.
    """
    blanked = set(names) & request.inputs.keys()
    if blanked:
        inputs = {alias: _blank(array) if alias in blanked else array for alias, array in request.inputs.items()}
        return dataclasses.replace(request, inputs=inputs, outputs={})
    kept = {alias: array for alias, array in request.outputs.items() if alias not in names}
    return request if len(kept) == len(request.outputs) else dataclasses.replace(request, outputs=kept)


def _blank(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OSU":
        return np.full(array.shape, b"", dtype=object)
    return np.zeros(array.shape, array.dtype)
