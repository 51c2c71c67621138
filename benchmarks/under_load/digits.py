"""The digits model, exported once per benchmark, and one request for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfs_deploy.clock import SystemClock
from tfs_deploy.demo import digits
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.predict import encode_predict_request


def exported(work: Path, given: Path | None) -> Path:
    """Return the directory of the SavedModel: `given`, or one trained in haste below `work` (20 to 30 s)."""
    if given is not None:
        return given
    trained = digits.train(work / "train", examples=200, epochs=1)
    source = CheckpointSource(SourceKind.KERAS, trained["checkpoint"])
    options = ExportOptions(postprocess=digits.POSTPROCESS, samples=trained["samples"])
    export(source, work / "digits", options, clock=SystemClock(), timeout=120.0)
    return work / "digits"


def images(rows: int) -> np.ndarray:
    """Return `rows` images, float32 `[rows, 8, 8, 1]` of 0 to 16."""
    return np.random.default_rng(0).uniform(0, 16, (rows, 8, 8, 1)).astype(np.float32)


def request(rows: int) -> bytes:
    """Return a serialized PredictRequest for `rows` images."""
    return encode_predict_request(messages.ModelSpec(name="digits"), {"images": images(rows)})
