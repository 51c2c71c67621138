"""A SavedModel that is taken as it is needs no TensorFlow unless requests are to be tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_deploy.errors import ExportFailed, InvalidInput, NotFound, Refused
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel import requests
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind
from tfs_deploy.serving.codec import messages

UNTRIED = ExportOptions(warmup=0)


def take(directory: Path, out: Path, options: ExportOptions, clock: Any) -> manifests.StagedModel:
    return export(CheckpointSource(SourceKind.SAVED_MODEL, str(directory)), out, options, clock=clock, timeout=60)


def change_graph(directory: Path, change: Callable[[Any], None]) -> None:
    path = directory / "saved_model.pb"
    model = messages.SavedModel.FromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "model",
    [
        "half_plus_two_2_versions/00000123",
        "half_plus_two_2_versions/00000124",
        "half_plus_two_tf2_cpu/00000123",
        "half_plus_three/00000123",
    ],
)
def test_foreign_models_are_taken_byte_for_byte(shared_models: Path, tmp_path: Path, clock: Any, model: str) -> None:
    staged = take(shared_models / model, tmp_path / "out", UNTRIED, clock)
    sources = {path.relative_to(shared_models / model) for path in (shared_models / model).rglob("*") if path.is_file()}
    assert {Path(entry.path) for entry in staged.manifest.files} == sources
    for path in sources:
        assert (tmp_path / "out" / path).read_bytes() == (shared_models / model / path).read_bytes()
    assert manifests.read(tmp_path / "out") == staged.manifest
    assert staged.manifest.tensorflow_version
    assert staged.manifest.provenance["kind"] == "saved_model"


def test_the_same_export_again_is_the_same_model_and_another_is_refused(
    tiny_saved_model: Path, tmp_path: Path, clock: Any
) -> None:
    first = take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert take(tiny_saved_model, tmp_path / "out", UNTRIED, clock) == first
    (tiny_saved_model / "assets" / "words.txt").write_bytes(b"other")
    with pytest.raises(Refused, match="holds another model"):
        take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert manifests.read(tmp_path / "out") == first.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


def test_an_output_that_is_something_else_is_refused(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(Refused, match="not an export"):
        take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_an_empty_output_directory_is_filled(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    (tmp_path / "out").mkdir()
    take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert (tmp_path / "out" / "saved_model.pb").is_file()


def test_its_own_warmup_is_kept_and_its_old_manifest_is_not(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    warmup = tiny_saved_model / requests.WARMUP_PATH
    requests.write_warmup(warmup, "m", [requests.WarmupRequest("serving_default", {"x": np.zeros(1, np.float32)})])
    (tiny_saved_model / manifests.MANIFEST_PATH).write_bytes(b"old")
    staged = take(tiny_saved_model, tmp_path / "out", ExportOptions(warmup=5), clock)
    assert (tmp_path / "out" / requests.WARMUP_PATH).read_bytes() == warmup.read_bytes()
    assert manifests.read(tmp_path / "out") == staged.manifest


def test_leftovers_of_a_killed_export_are_removed(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    (tmp_path / ".out.partial-0123" / "variables").mkdir(parents=True)
    (tmp_path / ".other.partial-0123").mkdir()
    take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-0123", "out", "tiny"]


def break_tag(directory: Path) -> None:
    change_graph(directory, lambda graph: graph.meta_info_def.tags.append("gpu"))


def add_variable(directory: Path) -> None:
    change_graph(directory, lambda graph: graph.graph_def.node.add(name="v", op="VariableV2"))


def add_variable_in_function(directory: Path) -> None:
    def change(graph: Any) -> None:
        graph.graph_def.library.function.add().node_def.add(name="v", op="VarHandleOp")

    change_graph(directory, change)


def lose_shard(directory: Path) -> None:
    add_variable(directory)
    (directory / "variables").mkdir()
    (directory / "variables" / "variables.index").write_bytes(b"i")
    (directory / "variables" / "variables.data-00000-of-00002").write_bytes(b"i")


def break_warmup(directory: Path) -> None:
    (directory / "assets.extra").mkdir()
    (directory / requests.WARMUP_PATH).write_bytes(b"not a TFRecord at all")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda directory: (directory / "saved_model.pb").write_bytes(b"\xff"), "cannot be parsed"),
        (lambda directory: (directory / "saved_model.pb").write_bytes(b""), "no graph tagged 'serve'"),
        (lambda directory: (directory / "saved_model.pb").unlink(), "no saved_model.pb"),
        (break_tag, "only .*gpu"),
        (add_variable, "variables.index is missing"),
        (add_variable_in_function, "variables.index is missing"),
        (lose_shard, "Shard 1 of 2"),
        (lambda directory: (directory / "assets" / "words.txt").unlink(), "asset 'words.txt'"),
        (break_warmup, "warm-up file of the SavedModel is damaged"),
    ],
)
def test_a_broken_model_is_refused_and_leaves_nothing(
    tiny_saved_model: Path, tmp_path: Path, clock: Any, damage: Callable[[Path], None], message: str
) -> None:
    damage(tiny_saved_model)
    with pytest.raises(ExportFailed, match=message):
        take(tiny_saved_model, tmp_path / "out", UNTRIED, clock)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_unknown_signature_is_named_with_those_there_are(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    with pytest.raises(ExportFailed, match=r"no signature 'nope', only \['serving_default'\]"):
        take(tiny_saved_model, tmp_path / "out", ExportOptions(signature="nope", warmup=0), clock)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_are_named_before_anything_starts(tiny_saved_model: Path, tmp_path: Path, clock: Any) -> None:
    with pytest.raises(InvalidInput, match="nowhere"):
        take(tmp_path / "nowhere", tmp_path / "out", UNTRIED, clock)
    with pytest.raises(NotFound, match=r"none\.npz"):
        take(tiny_saved_model, tmp_path / "out", ExportOptions(samples=str(tmp_path / "none.npz")), clock)
    with pytest.raises(InvalidInput, match="no-such-python"):
        export(
            CheckpointSource(SourceKind.SAVED_MODEL, str(tiny_saved_model)),
            tmp_path / "out",
            python="no-such-python",
            clock=clock,
            timeout=60,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
