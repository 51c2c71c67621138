"""The exporting process: reads a job, writes a SavedModel, runs it, writes a result. Holds TensorFlow.

It must work in an interpreter that has only TensorFlow and NumPy, so nothing that it imports needs more.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.errors import ExportFailed, TFSDeployError
from tfs_deploy.savedmodel.export.arrays import ArrayFile
from tfs_deploy.savedmodel.export.signature import reason
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind

NO_TENSORFLOW = "no TensorFlow"


@dataclass(frozen=True, slots=True)
class _Job:
    source: CheckpointSource
    options: ExportOptions
    directory: str
    result: Path
    arrays: Path


def main(job_path: str) -> int:
    """Do the job of the JSON file `job_path`, or leave when the parent dies; return the exit code."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    return run_job(job_path)


def run_job(job_path: str) -> int:
    """Do the job of the JSON file `job_path`; whatever goes wrong is in the result that it names."""
    job = _read_job(Path(job_path))
    try:
        _do(job)
        return 0
    except TFSDeployError as error:
        traceback.print_exc()
        _write_result(job, {"error": _error(error)})
    except Exception as error:
        traceback.print_exc()
        unexpected = ExportFailed(
            f"The checkpoint {job.source.path!r} cannot be exported: {reason(error)}.", "See the log of the export."
        )
        _write_result(job, {"error": _error(unexpected)})
    return 1


def _do(job: _Job) -> None:
    sys.path[:0] = list(job.options.search_path)
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        traceback.print_exc()
        _write_result(job, {"error": {"kind": NO_TENSORFLOW, "cause": reason(error), "remedy": ""}})
        return
    if job.source.kind is not SourceKind.SAVED_MODEL:
        _export(job)
        _settle_fingerprint(Path(job.directory))
    # From here on the files are written: a crash of the trial below is told apart from a failed export.
    _write_result(job, {"exported": True})
    options, arrays = job.options, ArrayFile()
    result: dict[str, Any] = {"warmup": [], "golden": [], "warnings": []}
    if options.warmup or options.golden:
        # Imported late for the same reason as everything that needs TensorFlow.
        from tfs_deploy.savedmodel.export.trial import record_requests

        result = record_requests(job.directory, options, _samples(options), arrays)
    arrays.save(job.arrays)
    _write_result(job, {"exported": True, "done": True, **result})


def _export(job: _Job) -> None:
    if job.source.kind is SourceKind.TF1_GRAPH:
        from tfs_deploy.savedmodel.export.graph_checkpoint import write_graph_model

        write_graph_model(job.source, job.options, job.directory)
        return
    from tfs_deploy.savedmodel.export.signature import write_saved_model

    write_saved_model(_loader(job.source.kind)(job.source), job.options, job.directory)


def _loader(kind: SourceKind) -> Callable[[CheckpointSource], Any]:
    from tfs_deploy.savedmodel.export.keras_model import load_keras, load_keras_weights
    from tfs_deploy.savedmodel.export.object_checkpoint import load_checkpoint

    loaders = {
        SourceKind.KERAS: load_keras,
        SourceKind.KERAS_WEIGHTS: load_keras_weights,
        SourceKind.TF_CHECKPOINT: load_checkpoint,
    }
    return loaders[kind]


def _settle_fingerprint(directory: Path) -> None:
    """Replace the random id in TensorFlow's fingerprint.pb: the same export must give the same bytes."""
    from tensorflow.core.protobuf import fingerprint_pb2

    path = directory / "fingerprint.pb"
    if path.is_file():
        fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
        fingerprint.uuid = str(fingerprint.saved_model_checksum)
        path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _samples(options: ExportOptions) -> dict[str, Any]:
    if not options.samples:
        return {}
    with np.load(options.samples, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "labels"}


def _read_job(path: Path) -> _Job:
    data = json.loads(path.read_text(encoding="utf-8"))
    source = {**data["source"], "kind": SourceKind(data["source"]["kind"])}
    given: dict[str, Any] = data["options"]
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return _Job(
        CheckpointSource(**source),
        ExportOptions(**options),
        data["directory"],
        Path(data["result"]),
        Path(data["arrays"]),
    )


def _error(error: TFSDeployError) -> dict[str, str]:
    return {"kind": type(error).__name__, "cause": error.cause, "remedy": error.remedy}


def _write_result(job: _Job, result: dict[str, Any]) -> None:
    partial = job.result.with_name(job.result.name + ".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(job.result)


def _leave_with_parent() -> None:
    # The parent holds the other end of stdin and never writes: end of file means that it is gone.
    while os.read(0, 1):
        pass
    os._exit(1)
