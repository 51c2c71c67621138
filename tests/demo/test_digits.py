"""The training of the demo: equal arguments give an equal model."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_deploy.demo import digits
from tfs_deploy.errors import ExportFailed, InvalidInput
from tfs_deploy.savedmodel.labelled import read_labelled, read_samples


@pytest.mark.tensorflow
def test_training_depends_on_its_arguments_only(tmp_path: Path) -> None:
    def train(name: str, seed: int) -> dict[str, Any]:
        return digits.train(tmp_path / name, examples=150, epochs=2, seed=seed)

    # Each is a process of its own, most of whose time is the import of TensorFlow.
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(train, ("first", "again", "other"), (1, 1, 2)))
    first, again, other = (weights(result["checkpoint"]) for result in results)
    assert first == again
    assert first != other
    labelled = [read_labelled(Path(result["labelled"])) for result in results]
    assert len(labelled[0]) == 500
    for one in labelled[1:]:
        np.testing.assert_array_equal(one.labels, labelled[0].labels)
        np.testing.assert_array_equal(one.inputs["images"], labelled[0].inputs["images"])
    samples = read_samples(Path(results[0]["samples"]))["images"]
    assert samples.shape[1:] == (8, 8, 1)
    assert samples.dtype == np.float32
    assert 0.1 < results[0]["accuracy"] < 0.9


def weights(checkpoint: str) -> bytes:
    return zipfile.ZipFile(checkpoint).read("model.weights.h5")


def test_held_out_digits_are_of_all_kinds() -> None:
    pytest.importorskip("sklearn")
    images, labels = digits.held_out()
    assert images.shape == (500, 8, 8, 1)
    assert images.min() == 0.0
    assert images.max() == 16.0
    assert set(labels.tolist()) == set(range(10))


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="0 examples"):
        digits.train(tmp_path / "out", examples=0)
    assert not (tmp_path / "out").exists()


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no-such-python"):
        digits.train(tmp_path, python="no-such-python")


def test_a_training_process_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="exit code 1"):
        digits.train(tmp_path, python="false")


def test_without_tensorflow_the_program_tells_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "keras.py").write_text("raise ModuleNotFoundError(\"No module named 'keras'\")\n")
    done = subprocess.run(
        [sys.executable, "-m", "tfs_deploy.demo.digits", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hidden")},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert "'keras' is not installed" in sentence
    assert "pip install tensorflow scikit-learn" in sentence
