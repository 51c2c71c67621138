from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput, NotFound
from tfs_deploy.savedmodel.labelled import read_labelled, read_samples


def test_inputs_and_labels_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", labels=[0, 1], x=np.ones((2, 3), np.float32), name=np.array(["a", "b"]))
    labelled = read_labelled(tmp_path / "set.npz")
    assert len(labelled) == 2
    assert labelled.inputs.keys() == {"x", "name"}
    assert labelled.inputs["x"].dtype == np.float32
    assert labelled.labels.tolist() == [0, 1]
    assert read_samples(tmp_path / "set.npz").keys() == {"x", "name"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(2)}, "no array called 'labels'"),
        ({"labels": np.zeros(2)}, "no inputs"),
        ({"labels": np.zeros(2), "x": np.zeros(3)}, "labels 2, x 3"),
        ({"labels": np.zeros(2), "x": np.array(3)}, "x None"),
        ({"labels": np.zeros(0), "x": np.zeros(0)}, "no examples"),
        ({"labels": np.zeros(1), "x": np.array([object()])}, "not a usable"),
    ],
)
def test_unusable_sets_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InvalidInput, match=message):
        read_labelled(tmp_path / "set.npz")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_files_of_another_kind_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(InvalidInput, match="not a usable"):
        read_labelled(tmp_path / "set.npz")


def test_a_single_array_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(2))
    with pytest.raises(InvalidInput, match="without a name"):
        read_labelled(tmp_path / "one.npy")
    with pytest.raises(NotFound):
        read_labelled(tmp_path / "none.npz")
