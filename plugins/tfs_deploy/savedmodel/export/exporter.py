"""Turn a checkpoint into a finished SavedModel directory with manifest, warm-up and golden requests.

TensorFlow runs in a child process: the caller does not import it, survives its crashes, and may name another
interpreter that has it.

    exporter ── job.json ──► child ── keras_model, object_checkpoint, graph_checkpoint or frozen_graph: one per kind
      (process)                       └► signature or graph_model: writes the SavedModel ──► trial: runs it
    exporter ◄── result.json, arrays.npz ──┘
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import CorruptModel, ExportFailed, InvalidInput, MissingExtra, NotFound, Refused
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.export.arrays import load_arrays, restore
from tfs_deploy.savedmodel.export.process import ChildResult, run_child, termination_unwinds
from tfs_deploy.savedmodel.export.staging import commit, partial_directory
from tfs_deploy.savedmodel.files import list_files
from tfs_deploy.savedmodel.inspection import SavedModelFacts, check_saved_model
from tfs_deploy.savedmodel.labelled import read_samples
from tfs_deploy.savedmodel.manifest import Manifest, StagedModel
from tfs_deploy.savedmodel.requests import (
    GOLDEN_PATH,
    MAX_WARMUP_RECORDS,
    WARMUP_PATH,
    GoldenRequest,
    WarmupRequest,
    read_logs,
    write_golden,
    write_warmup,
)
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind, check_options, check_source

logger = logging.getLogger(__name__)


def export(
    source: CheckpointSource,
    out: Path,
    options: ExportOptions | None = None,
    *,
    python: str | None = None,
    clock: Clock,
    timeout: float,
) -> StagedModel:
    """Export `source` to the new directory `out`, within `timeout` seconds; on any error no `out` is left.

    An `out` that holds the same model is returned unchanged; any other existing `out` is Refused. `python` names an
    interpreter that has TensorFlow; the default is the caller's own.
    """
    source, options = _absolute(source), _absolute_paths(options or ExportOptions())
    deadline = Deadline.after(timeout, clock)
    check_source(source)
    check_options(options, source.kind)
    if options.samples:
        read_samples(Path(options.samples))
    out = Path(os.path.abspath(out))
    existing = _existing(out)
    logger.info("Exporting %s checkpoint %s to %s", source.kind.value, source.path, out)
    with termination_unwinds(), partial_directory(out) as partial:
        facts = _fill(partial, source, options, python, deadline)
        built = manifests.build(
            partial, tensorflow_version=facts.tensorflow_version, provenance=_provenance(source, options), clock=clock
        )
        if existing is not None:
            return _same(out, existing, built)
        manifests.write(partial, built)
        commit(partial, out)
    logger.info("Exported %s: %d files, %d bytes, %s", out, len(built.files), built.total_bytes, built.fingerprint)
    return StagedModel(str(out), built)


def _fill(
    partial: Path, source: CheckpointSource, options: ExportOptions, python: str | None, deadline: Deadline
) -> SavedModelFacts:
    """Write model and requests into `partial` and return the facts of the finished model."""
    if source.kind is SourceKind.SAVED_MODEL:
        _check_given(source.path, options)
        _copy(Path(source.path), partial)
        if (partial / WARMUP_PATH).exists():
            _check_warmup(partial / WARMUP_PATH)
            options = dataclasses.replace(options, warmup=0)
        if not options.warmup and not options.golden:
            return check_saved_model(partial)
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-export-") as folder:
        try:
            result = run_child(source, options, partial, Path(folder), python=python, deadline=deadline)
        except MissingExtra:
            # Only the requests of a given SavedModel require TensorFlow, and without samples they are optional.
            if source.kind is not SourceKind.SAVED_MODEL or options.samples:
                raise
            logger.warning("No warm-up request was written: TensorFlow is not installed here to try one.")
        else:
            _write_requests(partial, options, result)
    facts = check_saved_model(partial)
    if options.signature not in facts.signature_names:
        raise ExportFailed(f"The signature {options.signature!r} was not written.", "Choose another signature name.")
    return facts


def _write_requests(partial: Path, options: ExportOptions, result: ChildResult) -> None:
    for warning in result.warnings:
        logger.warning("%s", warning)
    warmup, golden = result.index["warmup"], result.index["golden"]
    if not warmup and not golden:
        return
    blobs = load_arrays(result.arrays)
    if warmup:
        requests = [WarmupRequest(options.signature, restore(inputs, blobs)) for inputs in warmup]
        write_warmup(partial / WARMUP_PATH, options.model, requests)
    if golden:
        write_golden(
            partial / GOLDEN_PATH, options.model, [_golden(options.signature, index, blobs) for index in golden]
        )


def _golden(signature: str, index: Mapping[str, Any], blobs: Mapping[str, Any]) -> GoldenRequest:
    return GoldenRequest(signature, restore(index["inputs"], blobs), restore(index["outputs"], blobs))


def _check_given(path: str, options: ExportOptions) -> None:
    """Check a given SavedModel before it is copied."""
    try:
        facts = check_saved_model(Path(path))
    except (CorruptModel, NotFound) as error:
        raise ExportFailed(error.cause, error.remedy) from error
    if options.signature not in facts.signature_names:
        raise ExportFailed(
            f"The SavedModel {path!r} has no signature {options.signature!r}, only {list(facts.signature_names)}.",
            "Name one of those.",
        )


def _check_warmup(path: Path) -> None:
    try:
        count = sum(1 for _ in read_logs(path))
    except CorruptModel as error:
        raise ExportFailed(f"The warm-up file of the SavedModel is damaged: {error.cause}", error.remedy) from error
    if count > MAX_WARMUP_RECORDS:
        raise ExportFailed(
            f"The warm-up file of the SavedModel has {count} requests, more than {MAX_WARMUP_RECORDS}.",
            "Shorten it: TF Serving refuses to load a version with more.",
        )


def _copy(source: Path, target: Path) -> None:
    # An earlier manifest describes an earlier directory and is replaced.
    for path in list_files(source):
        if path != manifests.MANIFEST_PATH:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)


def _existing(out: Path) -> Manifest | None:
    if not out.exists() and not out.is_symlink():
        return None
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return None
    try:
        return manifests.read(out)
    except (NotFound, CorruptModel) as error:
        raise Refused(
            f"The output {str(out)!r} exists and is not an export.", "Name a directory that does not exist yet."
        ) from error


def _same(out: Path, existing: Manifest, built: Manifest) -> StagedModel:
    if existing.fingerprint != built.fingerprint:
        raise Refused(
            f"The output {str(out)!r} exists and holds another model ({existing.fingerprint[:19]}..., "
            f"not {built.fingerprint[:19]}...).",
            "Name a directory that does not exist yet.",
        )
    manifests.verify(out, existing)
    return StagedModel(str(out), existing)


def _provenance(source: CheckpointSource, options: ExportOptions) -> dict[str, str]:
    own = {"checkpoint": source.path, "kind": source.kind.value, "builder": source.builder}
    if source.moving_average_decay is not None:
        own["moving_average_decay"] = str(source.moving_average_decay)
    return {**{key: value for key, value in own.items() if value}, **options.provenance}


def _absolute(source: CheckpointSource) -> CheckpointSource:
    if not source.path:
        raise InvalidInput("The checkpoint has no path.", "Name the checkpoint.")
    return dataclasses.replace(source, path=os.path.abspath(source.path))


def _absolute_paths(options: ExportOptions) -> ExportOptions:
    return dataclasses.replace(
        options,
        samples=os.path.abspath(options.samples) if options.samples else "",
        search_path=tuple(os.path.abspath(path) for path in options.search_path),
    )
