from __future__ import annotations

from pathlib import Path

import pytest

from tfs_deploy import jsonable
from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel.source import (
    CheckpointSource,
    ExportOptions,
    SourceKind,
    check_options,
    check_source,
    detect,
)

BUILDER = "module:build"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "given", "kind", "path"),
    [
        (["m.keras"], "m.keras", SourceKind.KERAS, "m.keras"),
        (["m.h5"], "m.h5", SourceKind.KERAS_WEIGHTS, "m.h5"),
        (["m.hdf5"], "m.hdf5", SourceKind.KERAS_WEIGHTS, "m.hdf5"),
        (["m.weights.h5"], "m.weights.h5", SourceKind.KERAS_WEIGHTS, "m.weights.h5"),
        (["d/saved_model.pb"], "d", SourceKind.SAVED_MODEL, "d"),
        (["c-1.index"], "c-1", SourceKind.TF_CHECKPOINT, "c-1"),
        (["c-1.index"], "c-1.index", SourceKind.TF_CHECKPOINT, "c-1"),
        (["c-1.index", "c-1.meta"], "c-1", SourceKind.TF1_GRAPH, "c-1"),
        (["c-1.index", "c-1.meta"], "c-1.meta", SourceKind.TF1_GRAPH, "c-1"),
    ],
)
def test_the_kind_follows_from_the_files(
    tmp_path: Path, files: list[str], given: str, kind: SourceKind, path: str
) -> None:
    touch(*(tmp_path / name for name in files))
    source = detect(tmp_path / given, BUILDER)
    assert source == CheckpointSource(kind, str(tmp_path / path), BUILDER)
    check_source(source)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.h5", SourceKind.KERAS), ("m.hdf5", SourceKind.KERAS), ("m.pb", SourceKind.FROZEN_GRAPH)],
)
def test_without_a_builder(tmp_path: Path, name: str, kind: SourceKind) -> None:
    touch(tmp_path / name)
    source = detect(tmp_path / name)
    assert source == CheckpointSource(kind, str(tmp_path / name))
    check_source(source)


@pytest.mark.parametrize("named", ["c-2", "/gone/from/the/trainer/c-2"])
def test_a_directory_means_its_latest_checkpoint(tmp_path: Path, named: str) -> None:
    touch(tmp_path / "c-1.index", tmp_path / "c-2.index")
    (tmp_path / "checkpoint").write_text(
        f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "c-1"\nall_model_checkpoint_paths: "c-2"\n'
    )
    assert detect(tmp_path, BUILDER).path == str(tmp_path / "c-2")


@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("nothing", BUILDER, "There is no file, directory or checkpoint"),
        ("none.keras", BUILDER, "There is no file, directory or checkpoint"),
        ("none.pb", "", "There is no file, directory or checkpoint"),
        ("odd/checkpoint", BUILDER, "not a checkpoint"),
        ("saved_model.pb", "", "Name its directory"),
        ("directory.pb", "", "neither saved_model.pb nor a checkpoint"),
        ("empty", BUILDER, "neither saved_model.pb nor a checkpoint"),
        ("c-1", "", "must be built"),
        ("m.weights.h5", "", "must be built"),
        ("odd", BUILDER, "names no checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, name: str, builder: str, message: str) -> None:
    touch(tmp_path / "c-1.index", tmp_path / "m.weights.h5", tmp_path / "odd" / "checkpoint")
    touch(tmp_path / "saved_model.pb")
    for directory in ("empty", "directory.pb"):
        (tmp_path / directory).mkdir()
    with pytest.raises(InvalidInput, match=message):
        detect(tmp_path / name, builder)


@pytest.mark.parametrize("builder", ["module", ":f", "m:", "m:f()", "a b:c", "../m:f"])
def test_a_builder_is_module_and_function(tmp_path: Path, builder: str) -> None:
    touch(tmp_path / "c.index")
    with pytest.raises(InvalidInput, match="module:function"):
        check_source(CheckpointSource(SourceKind.TF_CHECKPOINT, str(tmp_path / "c"), builder))


@pytest.mark.parametrize("kind", list(SourceKind))
def test_a_path_that_is_gone_is_reported(tmp_path: Path, kind: SourceKind) -> None:
    builder = "" if kind is SourceKind.FROZEN_GRAPH else BUILDER
    with pytest.raises(InvalidInput, match=r"There is no (file|directory)"):
        check_source(CheckpointSource(kind, str(tmp_path / "gone"), builder))


def test_a_frozen_graph_takes_no_builder(tmp_path: Path) -> None:
    touch(tmp_path / "g.pb")
    with pytest.raises(InvalidInput, match="builder"):
        check_source(CheckpointSource(SourceKind.FROZEN_GRAPH, str(tmp_path / "g.pb"), BUILDER))


@pytest.mark.parametrize("decay", [0.0, 1.0, float("nan")])
def test_a_moving_average_decay_lies_between_0_and_1(tmp_path: Path, decay: float) -> None:
    touch(tmp_path / "c.index")
    with pytest.raises(InvalidInput, match="decay"):
        check_source(CheckpointSource(SourceKind.TF1_GRAPH, str(tmp_path / "c"), "", decay))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (ExportOptions(signature=""), SourceKind.KERAS),
        (ExportOptions(signature="__saved_model_init_op"), SourceKind.KERAS),
        (ExportOptions(inputs=("a", "a")), SourceKind.KERAS),
        (ExportOptions(outputs=("",)), SourceKind.KERAS),
        (ExportOptions(warmup=1001), SourceKind.KERAS),
        (ExportOptions(golden=1), SourceKind.KERAS),
        (ExportOptions(postprocess="nothing"), SourceKind.KERAS),
        (ExportOptions(postprocess="m:f"), SourceKind.SAVED_MODEL),
    ],
)
def test_options_that_contradict_are_refused(options: ExportOptions, kind: SourceKind) -> None:
    with pytest.raises(InvalidInput):
        check_options(options, kind)


def test_source_and_options_survive_json() -> None:
    source = CheckpointSource(SourceKind.TF1_GRAPH, "/a/b", BUILDER, 0.997)
    options = ExportOptions(inputs=("a",), input_tensors={"a": "x:0"}, provenance={"run": "1"})
    assert jsonable.from_json(CheckpointSource, jsonable.to_json(source)) == source
    assert jsonable.from_json(ExportOptions, jsonable.to_json(options)) == options
