"""Checkpoints and options that cannot be exported: one sentence each, and no output directory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from savedmodel.tensorflow_forks import TensorFlowForks
from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import ExportFailed
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind

pytestmark = pytest.mark.tensorflow

KERAS, WEIGHTS, OBJECTS, GRAPH, FROZEN = (
    SourceKind.KERAS,
    SourceKind.KERAS_WEIGHTS,
    SourceKind.TF_CHECKPOINT,
    SourceKind.TF1_GRAPH,
    SourceKind.FROZEN_GRAPH,
)
META = {"input_tensors": {"images": "input_images:0"}, "output_tensors": {"result": "score_map:0"}}

# name -> (kind, path, builder, moving average decay, options, kind of error, part of its sentence)
CASES: dict[str, tuple[SourceKind, str, str, float | None, dict[str, Any], str, str]] = {
    "junk keras file": (KERAS, "junk", "", None, {}, "ExportFailed", "The Keras file"),
    "too many inputs": (KERAS, "classifier.keras", "", None, {"inputs": ("a", "b")}, "InvalidInput", "2 input names"),
    "bad input name": (KERAS, "classifier.keras", "", None, {"inputs": ("a b",)}, "InvalidInput", "'a b'"),
    "unknown outputs": (KERAS, "classifier.keras", "", None, {"outputs": ("a", "b")}, "InvalidInput", "['a', 'b']"),
    "postprocess gives a tensor": (
        *(KERAS, "classifier.keras", "", None, {"postprocess": "tiny_models:not_a_dict"}),
        *("ExportFailed", "instead of a dict"),
    ),
    "samples of another name": (
        *(KERAS, "classifier.keras", "", None, {"samples": "named_x.npz"}),
        *("InvalidInput", "no array for the input 'features'"),
    ),
    "no such module": (WEIGHTS, "classifier.weights.h5", "no_module:f", None, {}, "InvalidInput", "'no_module'"),
    "no such function": (WEIGHTS, "classifier.weights.h5", "tiny_models:f", None, {}, "InvalidInput", "not a function"),
    "module that cannot be imported": (
        *(WEIGHTS, "classifier.weights.h5", "broken_builder:f", None, {}),
        *("ExportFailed", "cannot be imported: ModuleNotFoundError: No module named 'no_dependency'."),
    ),
    "weights without a builder": (KERAS, "weights.h5", "", None, {}, "InvalidInput", "the model must be built first"),
    "junk hdf5 file": (KERAS, "junk.h5", "", None, {}, "ExportFailed", "cannot be read as HDF5"),
    "layer that Keras 3 does not know": (
        *(KERAS, "unknown_layer.h5", "", None, {}),
        *("ExportFailed", "cannot be loaded: ValueError: Unknown layer: 'TFOpLambda'"),
    ),
    "weights builder returns custom objects for weights": (
        *(WEIGHTS, "weights.h5", "tiny_models:custom_objects", None, {}),
        *("ExportFailed", "No model config found"),
    ),
    "builder raises": (
        *(WEIGHTS, "classifier.weights.h5", "tiny_models:raising", None, {}),
        *("ExportFailed", "raised ValueError: no such layer type."),
    ),
    "builder exits": (
        *(WEIGHTS, "classifier.weights.h5", "tiny_models:leaving", None, {}),
        *("ExportFailed", "raised SystemExit: the configuration is missing"),
    ),
    "builder returns 7": (WEIGHTS, "classifier.weights.h5", "tiny_models:number", None, {}, "ExportFailed", "a int"),
    "weights of another model": (
        *(WEIGHTS, "classifier.weights.h5", "tiny_models:wider_classifier", None, {}),
        *("ExportFailed", "do not fit the model of 'tiny_models:wider_classifier'"),
    ),
    "checkpoint lacks variables": (
        *(OBJECTS, "objects/ckpt-1", "tiny_models:checkpointed_with_more", None, {}),
        *("ExportFailed", "lacks values for 2 objects"),
    ),
    "checkpoint of another root": (
        *(OBJECTS, "as_root", "tiny_models:checkpointed", None, {}),
        *("ExportFailed", "lacks values"),
    ),
    "not a checkpoint": (OBJECTS, "junk", "tiny_models:checkpointed", None, {}, "ExportFailed", "does not fit"),
    "builder without a function": (OBJECTS, "scale", "tiny_models:number", None, {}, "ExportFailed", "served function"),
    "graph lacks variables": (
        *(GRAPH, "graph/model.ckpt-4", "tiny_models:detector_with_more", None, {}),
        *("ExportFailed", "2 of 5 variables are missing"),
    ),
    "graph without averages": (
        *(GRAPH, "plain/model.ckpt", "tiny_models:detector", 0.9, {}),
        *("ExportFailed", "feature/bias/ExponentialMovingAverage, feature/kernel/ExponentialMovingAverage"),
    ),
    "graph builder returns a dict": (
        *(GRAPH, "graph/model.ckpt-4", "tiny_models:checkpointed", None, {}),
        *("ExportFailed", "instead of a pair of dicts"),
    ),
    "frozen without names": (FROZEN, "frozen.pb", "", None, {}, "InvalidInput", "['input_images:0']"),
    "frozen with an unknown tensor": (
        *(FROZEN, "frozen.pb", "", None, {**META, "output_tensors": {"result": "nope:0"}}),
        *("InvalidInput", "no tensor 'nope:0'"),
    ),
    "graph that is not frozen": (
        *(FROZEN, "not_frozen.pb", "", None, META),
        *("ExportFailed", "is not frozen: the outputs need the variable 'feature/bias'"),
    ),
    "pb file of a SavedModel": (FROZEN, "renamed.pb", "", None, META, "InvalidInput", "holds a SavedModel"),
    "junk pb file": (FROZEN, "junk.pb", "", None, META, "InvalidInput", "neither a frozen graph nor a SavedModel"),
    "meta without names": (GRAPH, "graph/model.ckpt-4", "", None, {}, "InvalidInput", "['input_images:0']"),
    "meta with an unknown tensor": (
        *(GRAPH, "graph/model.ckpt-4", "", None, {**META, "output_tensors": {"result": "nope:0"}}),
        *("InvalidInput", "no tensor 'nope:0'"),
    ),
    "meta with an input left out": (
        *(GRAPH, "graph/model.ckpt-4", "", None, {**META, "input_tensors": {"images": "feature/bias:0"}}),
        *("ExportFailed", "depend on the placeholder 'input_images'"),
    ),
    "samples of a wrong rank": (
        *(GRAPH, "graph/model.ckpt-4", "", None, {**META, "samples": "wrong_rank.npz"}),
        *("InvalidInput", "have the shape [16, 24, 3]"),
    ),
    "samples of a wrong type": (
        *(GRAPH, "graph/model.ckpt-4", "", None, {**META, "samples": "wrong_type.npz"}),
        *("InvalidInput", "are float64, not float32"),
    ),
}


@pytest.fixture(scope="module")
def results(
    checkpoints: Any, forks: TensorFlowForks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Run all jobs and return the result file of each."""
    folder = tmp_path_factory.mktemp("jobs")
    for number, (kind, path, builder, decay, options, _, _) in enumerate(CASES.values()):
        with_options = ExportOptions(search_path=checkpoints.search_path, **options)
        if with_options.samples:
            with_options = replace(with_options, samples=str(checkpoints / with_options.samples))
        job = {
            "source": to_builtins(CheckpointSource(kind, str(checkpoints / path), builder, decay)),
            "options": to_builtins(with_options),
            "directory": str(folder / f"out-{number}"),
            "result": str(folder / f"result-{number}.json"),
            "arrays": str(folder / f"arrays-{number}.npz"),
        }
        (folder / f"out-{number}").mkdir()
        job_file = folder / f"job-{number}.json"
        job_file.write_text(json.dumps(job))
        assert forks.run(folder / f"output-{number}", "run_job.py", job_file) == 1
    return {name: json.loads((folder / f"result-{number}.json").read_text()) for number, name in enumerate(CASES)}


@pytest.mark.parametrize("name", list(CASES))
def test_the_reason_is_one_sentence(results: dict[str, dict[str, Any]], name: str) -> None:
    kind, part = CASES[name][-2:]
    error = results[name]["error"]
    assert error["kind"] == kind, error
    assert part in error["cause"]
    assert "\n" not in error["cause"]
    assert error["cause"].endswith(".")
    assert error["remedy"].endswith(".")


@pytest.mark.parametrize(
    ("builder", "message", "own_process"),
    [
        ("tiny_models:checkpointed_with_more", "lacks values", False),
        ("tiny_models:crashing", r"SIGSEGV.*last output.*the end", True),
    ],
)
def test_no_output_directory_is_left(
    checkpoints: Any, forked_exports: None, tmp_path: Path, builder: str, message: str, own_process: bool
) -> None:
    with pytest.raises(ExportFailed, match=message):
        export(
            CheckpointSource(OBJECTS, str(checkpoints / "objects/ckpt-1"), builder),
            tmp_path / "out",
            ExportOptions(search_path=checkpoints.search_path),
            python=sys.executable if own_process else None,
            clock=SystemClock(),
            timeout=480,
        )
    assert list(tmp_path.iterdir()) == []
