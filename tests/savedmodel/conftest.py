"""Checkpoints of every kind, written once by a process that holds TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from savedmodel.tensorflow_forks import TensorFlowForks
from tfs_deploy.clock import Deadline
from tfs_deploy.savedmodel.export import process

HERE = Path(__file__).parent


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
def forks() -> Iterator[TensorFlowForks]:
    with TensorFlowForks(process._environment(own=True)) as started:
        yield started


@pytest.fixture(scope="module")
def forked_exports(forks: TensorFlowForks) -> Iterator[None]:
    """Let exports run in forks of a process that has TensorFlow; those that name an interpreter run in that."""
    in_own_process = process._run

    def run(interpreter: str, workspace: Path, deadline: Deadline, *, own: bool) -> int:
        if not own:
            return in_own_process(interpreter, workspace, deadline, own=own)
        return forks.run(workspace / "output.txt", "run_job.py", workspace / "job.json")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_run", run)
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, forks: TensorFlowForks) -> Checkpoints:
    root = tmp_path_factory.mktemp("checkpoints")
    forks.check(root / "output.txt", "write_checkpoints.py", root)
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
