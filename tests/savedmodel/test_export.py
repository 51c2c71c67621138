"""From each kind of checkpoint to a SavedModel that answers as the source model does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from savedmodel.tensorflow_forks import TensorFlowForks
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel import requests
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.manifest import StagedModel
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind, detect

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("forked_exports")]

HERE = Path(__file__).parent
META_TENSORS = {"input_tensors": {"images": "input_images"}, "output_tensors": {"result": "score_map:0"}}


def cases(root: Path) -> dict[str, tuple[CheckpointSource, ExportOptions, dict[str, str]]]:
    """Return name to (source, options, output name to key in the expected answers)."""
    here = (str(HERE),)
    graph = str(root / "graph" / "model.ckpt-4")
    images = str(root / "images.npz")
    return {
        "keras": (
            detect(root / "classifier.keras"),
            ExportOptions(samples=str(root / "features.npz"), warmup=2, golden=3),
            {"scores": "classifier"},
        ),
        "keras_h5": (
            detect(root / "classifier.h5"),
            ExportOptions(samples=str(root / "features.npz"), golden=1),
            {"scores": "classifier"},
        ),
        "keras_2": (
            detect(root / "keras_2.hdf5"),
            ExportOptions(samples=str(root / "features.npz"), golden=1),
            {"scores": "classifier"},
        ),
        "keras_2_arguments": (
            detect(root / "recurrent.h5"),
            ExportOptions(samples=images, golden=1),
            {"state": "recurrent"},
        ),
        "custom_objects": (
            detect(root / "unknown_layer.h5", "tiny_models:custom_objects"),
            ExportOptions(samples=images, golden=1, search_path=here),
            {"state": "recurrent"},
        ),
        "weights_of_a_whole_file": (
            detect(root / "classifier.h5", "tiny_models:classifier"),
            ExportOptions(samples=str(root / "features.npz"), golden=1, search_path=here),
            {"scores": "classifier"},
        ),
        "two_inputs": (
            detect(root / "two_inputs.keras"),
            ExportOptions(outputs=("total", "order"), samples=str(root / "two_inputs.npz"), golden=2),
            {"total": "sum", "order": "rank"},
        ),
        "dict_inputs": (
            detect(root / "dict_inputs.keras"),
            ExportOptions(outputs=("y",), samples=str(root / "dict_inputs.npz"), golden=1),
            {"y": "y"},
        ),
        "keras_weights": (
            detect(root / "classifier.weights.h5", "tiny_models:classifier"),
            ExportOptions(
                signature="classify",
                also_default=False,
                inputs=("x",),
                postprocess="tiny_models:best_class",
                samples=str(root / "named_x.npz"),
                golden=6,
                search_path=here,
            ),
            {"score": "best"},
        ),
        "tf_checkpoint": (
            detect(root / "objects", "tiny_models:checkpointed"),
            ExportOptions(samples=str(root / "features.npz"), golden=1, search_path=here),
            {"scores": "classifier"},
        ),
        "module": (
            detect(root / "scale", "tiny_models:scale"),
            ExportOptions(samples=str(root / "scale.npz"), golden=3, search_path=here),
            {"scaled": "scaled"},
        ),
        "tf1_graph": (
            CheckpointSource(SourceKind.TF1_GRAPH, graph, "tiny_models:detector", 0.5),
            ExportOptions(signature="predict_images", samples=images, golden=2, search_path=here),
            {"result": "averaged"},
        ),
        "frozen_graph": (
            detect(root / "frozen.pb"),
            ExportOptions(signature="predict_images", samples=images, golden=2, **META_TENSORS),
            {"result": "result"},
        ),
        "frozen_table": (
            detect(root / "frozen_table.pb"),
            ExportOptions(
                input_tensors={"word": "word"},
                output_tensors={"number": "number:0"},
                samples=str(root / "words.npz"),
                golden=1,
            ),
            {"number": "number"},
        ),
        "tf1_meta": (
            detect(root / "graph"),
            ExportOptions(signature="predict_images", samples=images, golden=1, **META_TENSORS),
            {"result": "result"},
        ),
    }


@pytest.fixture(scope="module")
def exported(
    checkpoints: Any, forked_exports: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StagedModel]:
    checkpoints.expected["best"] = checkpoints.expected["classifier"].max(axis=-1)
    out = tmp_path_factory.mktemp("exported")

    return {
        name: export(source, out / name, options, clock=SystemClock(), timeout=480)
        for name, (source, options, _) in cases(checkpoints.root).items()
    }


def test_tensorflows_loader_gets_the_answers_of_the_source_models(
    checkpoints: Any, exported: dict[str, StagedModel], forks: TensorFlowForks, tmp_path: Path
) -> None:
    all_cases = cases(checkpoints.root)
    questions = [
        {"directory": exported[name].path, "signature": options.signature, "samples": options.samples}
        for name, (_, options, _) in all_cases.items()
    ]
    forks.check(tmp_path / "output", "answer_with_tensorflow.py", json.dumps(questions), tmp_path / "answers.npz")
    with np.load(tmp_path / "answers.npz") as answers:
        for number, (_, _, outputs) in enumerate(all_cases.values()):
            for output, key in outputs.items():
                np.testing.assert_allclose(
                    answers[f"{number}/{output}"], checkpoints.expected[key], rtol=1e-4, atol=1e-6
                )


def test_golden_requests_hold_the_answers_of_the_source_models(
    checkpoints: Any, exported: dict[str, StagedModel]
) -> None:
    for name, (_, options, outputs) in cases(checkpoints.root).items():
        golden = requests.read_golden(Path(exported[name].path) / requests.GOLDEN_PATH)
        assert len(golden) == options.golden
        start = 0
        for number, request in enumerate(golden, 1):
            rows = range(start, start + number)
            start += number
            assert request.signature == options.signature
            assert {len(array) for array in request.inputs.values()} == {number}
            for output, key in outputs.items():
                wanted = np.take(checkpoints.expected[key], rows, axis=0, mode="wrap")
                np.testing.assert_allclose(request.outputs[output], wanted, rtol=1e-4, atol=1e-6)


def test_every_export_has_warmup_and_a_manifest_that_verifies(
    checkpoints: Any, exported: dict[str, StagedModel]
) -> None:
    for name, (source, options, _) in cases(checkpoints.root).items():
        directory = Path(exported[name].path)
        assert len(requests.read_warmup(directory / requests.WARMUP_PATH)) == options.warmup
        manifest = manifests.read(directory)
        assert manifest == exported[name].manifest
        manifests.verify(directory, manifest)
        assert manifest.tensorflow_version.startswith("2.")
        assert manifest.provenance["checkpoint"] == source.path
    assert all(not path.name.startswith(".") for path in Path(exported["keras"].path).parent.iterdir())


def test_signatures_have_the_names_and_shapes_that_were_asked_for(exported: dict[str, StagedModel]) -> None:
    def interface(name: str, signature: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = exported[name].manifest.signatures[signature]
        return (
            {alias: (spec.dtype, spec.shape) for alias, spec in found.inputs.items()},
            {alias: (spec.dtype, spec.shape) for alias, spec in found.outputs.items()},
        )

    images = ({"images": ("DT_FLOAT", (None, None, None, 3))}, {"result": ("DT_FLOAT", (None, None, None, 1))})
    for name in ("tf1_graph", "tf1_meta", "frozen_graph"):
        assert interface(name, "predict_images") == interface(name, "serving_default") == images
        assert exported[name].manifest.signatures["predict_images"].method_name == "tensorflow/serving/predict"
    assert list(exported["keras_weights"].manifest.signatures) == ["classify"]
    assert interface("keras_weights", "classify") == (
        {"x": ("DT_FLOAT", (None, 4))},
        {"class": ("DT_INT64", (None,)), "score": ("DT_FLOAT", (None,))},
    )
    assert interface("two_inputs", "serving_default") == (
        {"left": ("DT_FLOAT", (None, 4)), "right": ("DT_INT32", (None, 2))},
        {"total": ("DT_FLOAT", (None, 3)), "order": ("DT_FLOAT", (None, 1))},
    )


def test_what_only_training_needs_stays_behind(exported: dict[str, StagedModel]) -> None:
    from tfs_deploy.serving.codec import messages

    data = (Path(exported["tf1_meta"].path) / "saved_model.pb").read_bytes()
    operations = {node.op for node in messages.SavedModel.FromString(data).meta_graphs[0].graph_def.node}
    assert not {op for op in operations if "Momentum" in op or "Grad" in op}
    index = (Path(exported["tf1_meta"].path) / "variables" / "variables.index").read_bytes()
    assert b"Momentum" not in index
    assert b"global_step" not in index


@pytest.mark.parametrize("name", ["keras", "tf1_graph", "frozen_graph"])
def test_exporting_again_gives_the_same_bytes(checkpoints: Any, exported: dict[str, StagedModel], name: str) -> None:
    source, options, _ = cases(checkpoints.root)[name]
    # Keras and TensorFlow 2 order some things by object ids, which two forks share and two processes do not.
    python = sys.executable if name == "keras" else None
    again = export(source, Path(exported[name].path), options, python=python, clock=SystemClock(), timeout=480)
    assert again == exported[name]


def test_a_foreign_model_gets_warmup_and_golden_requests(shared_models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([[1.0], [2.0], [5.0]], np.float32))
    source = detect(shared_models / "half_plus_two_2_versions" / "00000123")
    options = ExportOptions(samples=str(tmp_path / "x.npz"), golden=2)
    export(source, tmp_path / "out", options, clock=SystemClock(), timeout=480)
    golden = requests.read_golden(tmp_path / "out" / requests.GOLDEN_PATH)
    assert [one.outputs["y"].tolist() for one in golden] == [[[2.5]], [[3.0], [4.5]]]
    assert len(requests.read_warmup(tmp_path / "out" / requests.WARMUP_PATH)) == 1


def test_an_interpreter_with_tensorflow_alone_is_enough(checkpoints: Any, tmp_path: Path) -> None:
    """The other interpreter has neither this package nor anything that only this package needs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=60)
    (theirs,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    lacking = (
        "msgspec",
        "google_crc32c",
        "grpc",
        "tfs_deploy",
        "_tfs_deploy",
        "filelock",
        "airflow",
        "tenacity",
        "typer",
    )
    for entry in Path(np.__file__).parents[1].iterdir():
        if not entry.name.lower().startswith(lacking) and entry.suffix != ".pth":
            (theirs / entry.name).symlink_to(entry)
    staged = export(
        detect(checkpoints / "scale_dict", "tiny_models:scale_and_function"),
        tmp_path / "out",
        ExportOptions(search_path=checkpoints.search_path),
        python=str(tmp_path / "env" / "bin" / "python"),
        clock=SystemClock(),
        timeout=480,
    )
    assert list(staged.manifest.signatures["serving_default"].inputs) == ["x"]
    (warmup,) = requests.read_warmup(tmp_path / "out" / requests.WARMUP_PATH)
    assert warmup.inputs["x"].shape == (1, 2)
