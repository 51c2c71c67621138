"""The gates file: what it may say, and that a slip of the pen never silently removes a gate."""

from __future__ import annotations

import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.validation.config import Gates, gates_from, read_gates


def test_no_file_means_the_default_gates():
    assert read_gates(None) == Gates()


def test_relative_paths_count_from_the_file(tmp_path):
    file = tmp_path / "gates.yaml"
    file.write_text("golden: {file: golden.tfrecord, rtol: 0.01}\naccuracy: {file: /abs/test.npz, floor: 0.9}\n")
    gates = read_gates(file)
    assert gates.options["golden"].file == str(tmp_path / "golden.tfrecord")
    assert gates.options["golden"].rtol == 0.01
    assert gates.options["accuracy"].file == "/abs/test.npz"


def test_json_is_read_too_and_an_empty_file_is_the_default(tmp_path):
    file = tmp_path / "gates.json"
    file.write_text('{"signature": false}')
    assert "signature" not in read_gates(file).options
    file.write_text("")
    assert read_gates(file) == Gates()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("acuracy: {file: a.npz}", "acuracy"),
        ("accuracy: {file: a.npz, flor: 0.9}", "flor"),
        ("accuracy: {file: a.npz, floor: 1.5}", "floor"),
        ("accuracy: {floor: 0.5}", "file"),
        ("golden: {rtol: -1}", "rtol"),
        ("golden: {rtol: .inf}", "rtol"),
        ("golden: {atol: .nan}", "atol"),
        ("accuracy: {file: a.npz, floor: .nan}", "floor"),
        ("- a list", "object"),
        ("accuracy: {file: a.npz, floor: high}", "floor"),
        ("a: [1", "YAML"),
        ("signature: maybe", "signature"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, text, named):
    file = tmp_path / "gates.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=named):
        read_gates(file)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="There is no gates file"):
        read_gates(tmp_path / "absent.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidInput, match="not YAML"):
        read_gates(tmp_path / "binary")


def test_yaml_tags_make_no_objects():
    with pytest.raises(InvalidInput):
        gates_from({"golden": {"file": 3}})
