"""Checkpoints of every kind, written once by a process that holds TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
TENSORFLOW_ENVIRONMENT = {
    **os.environ,
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


@dataclass
class FixedClock:
    """A clock whose wall time stands still and whose monotonic time is that of the tests."""

    at: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


@dataclass(frozen=True)
class Checkpoints:
    """The directory of the checkpoints and what their models answer."""

    root: Path
    expected: dict[str, np.ndarray]
    search_path: tuple[str, ...] = (str(HERE),)

    def __truediv__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    root = tmp_path_factory.mktemp("checkpoints")
    subprocess.run(
        [sys.executable, str(HERE / "write_checkpoints.py"), str(root)],
        check=True,
        timeout=120,
        env=TENSORFLOW_ENVIRONMENT,
    )
    with np.load(root / "expected.npz") as archive:
        return Checkpoints(root, {name: archive[name] for name in archive.files})


@pytest.fixture
def tiny_saved_model(tmp_path: Path) -> Path:
    """A SavedModel directory made without TensorFlow: one placeholder, one signature, an asset, no variables."""
    from tfs_deploy.serving.codec import messages

    model = messages.SavedModel(saved_model_schema_version=1)
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    graph.meta_info_def.tensorflow_version = "2.21.0"
    graph.graph_def.node.add(name="x", op="Placeholder")
    signature = graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors in (signature.inputs, signature.outputs):
        tensors["x"].name, tensors["x"].dtype = "x:0", 1
        tensors["x"].tensor_shape.dim.add(size=-1)
    graph.asset_file_def.add(filename="words.txt").tensor_info.name = "words:0"
    directory = tmp_path / "tiny"
    (directory / "assets").mkdir(parents=True)
    (directory / "assets" / "words.txt").write_bytes(b"a\nb\n")
    (directory / "saved_model.pb").write_bytes(model.SerializeToString())
    return directory
