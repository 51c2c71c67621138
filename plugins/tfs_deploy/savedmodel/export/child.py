"""The exporting process, which holds TensorFlow: reads a job, writes a SavedModel, runs it and writes a result.

It works in an interpreter that has TensorFlow and NumPy only, so this package's modules here import nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.errors import ExportFailed, TFSDeployError
from tfs_deploy.savedmodel.export.arrays import ArrayFile
from tfs_deploy.savedmodel.export.signature import error_summary
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind

NO_TENSORFLOW = "no TensorFlow"


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The parent's order: paths of the SavedModel to write, of the result (JSON) and of its arrays."""

    source: CheckpointSource
    options: ExportOptions
    directory: str
    result: Path
    arrays: Path


def main(job_path: str) -> int:
    """Run the job of the JSON file `job_path`, or exit when the parent dies; return the exit code."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    return run_job(job_path)


def run_job(job_path: str) -> int:
    """Run the job of the JSON file `job_path`; any error is written to the job's result file."""
    job = _read_job(Path(job_path))
    try:
        _run(job)
        return 0
    except TFSDeployError as error:
        traceback.print_exc()
        _write_result(job, {"error": _error(error)})
    except Exception as error:
        traceback.print_exc()
        unexpected = ExportFailed(
            f"The checkpoint {job.source.path!r} cannot be exported: {error_summary(error)}.",
            "See the log of the export.",
        )
        _write_result(job, {"error": _error(unexpected)})
    return 1


def _run(job: ExportJob) -> None:
    sys.path[:0] = list(job.options.search_path)
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        traceback.print_exc()
        _write_result(job, {"error": {"kind": NO_TENSORFLOW, "cause": error_summary(error), "remedy": ""}})
        return
    if job.source.kind is not SourceKind.SAVED_MODEL:
        _export(job)
        _make_fingerprint_deterministic(Path(job.directory))
    # The SavedModel is complete: the parent distinguishes a crash of the trial below from a failed export.
    _write_result(job, {"exported": True})
    options, arrays = job.options, ArrayFile()
    result: dict[str, Any] = {"warmup": [], "golden": [], "warnings": []}
    if options.warmup or options.golden:
        from tfs_deploy.savedmodel.export.trial import record_requests

        result = record_requests(job.directory, options, _samples(options), arrays)
    arrays.save(job.arrays)
    _write_result(job, {"exported": True, "done": True, **result})


def _export(job: ExportJob) -> None:
    from tfs_deploy.savedmodel.export.frozen_graph import write_frozen_graph
    from tfs_deploy.savedmodel.export.graph_checkpoint import write_graph_model
    from tfs_deploy.savedmodel.export.keras_model import load_keras, load_keras_weights
    from tfs_deploy.savedmodel.export.object_checkpoint import load_checkpoint
    from tfs_deploy.savedmodel.export.signature import write_saved_model

    graph_writers = {SourceKind.TF1_GRAPH: write_graph_model, SourceKind.FROZEN_GRAPH: write_frozen_graph}
    loaders = {
        SourceKind.KERAS: load_keras,
        SourceKind.KERAS_WEIGHTS: load_keras_weights,
        SourceKind.TF_CHECKPOINT: load_checkpoint,
    }
    if job.source.kind in graph_writers:
        graph_writers[job.source.kind](job.source, job.options, job.directory)
    else:
        write_saved_model(loaders[job.source.kind](job.source), job.options, job.directory)


def _make_fingerprint_deterministic(directory: Path) -> None:
    """Replace the random id in TensorFlow's fingerprint.pb, so that the same export gives the same bytes."""
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


def _read_job(path: Path) -> ExportJob:
    data = json.loads(path.read_text(encoding="utf-8"))
    source = {**data["source"], "kind": SourceKind(data["source"]["kind"])}
    given: dict[str, Any] = data["options"]
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return ExportJob(
        CheckpointSource(**source),
        ExportOptions(**options),
        data["directory"],
        Path(data["result"]),
        Path(data["arrays"]),
    )


def _error(error: TFSDeployError) -> dict[str, str]:
    return {"kind": type(error).__name__, "cause": error.cause, "remedy": error.remedy}


def _write_result(job: ExportJob, result: dict[str, Any]) -> None:
    partial = job.result.with_name(job.result.name + ".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(job.result)


def _exit_with_parent() -> None:
    # The parent holds the other end of stdin and never writes: end of file means that it has died.
    while os.read(0, 1):
        pass
    os._exit(1)
