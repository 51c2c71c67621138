"""What every way to run a throw-away model server promises: run against the embedded server and against containers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfs_deploy.errors import LoadFailed
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.runner import ModelServerRunner


class ModelServerRunnerSuite:
    """Subclasses give the fixture `runner`."""

    def test_it_serves_under_the_name_and_number_that_were_asked_for(
        self, runner: ModelServerRunner, shared_models: Path
    ) -> None:
        with runner.serve(shared_models / "half_plus_two_tf2_cpu" / "00000123", "half", 7) as target:
            client = connect(target)
            try:
                answer = client.predict("half", {"x": np.array([2.0], np.float32)}, version=7, timeout=60)
            finally:
                client.close()
        assert answer.version == 7
        assert answer.outputs["y"].tolist() == [3.0]

    def test_what_the_block_raises_passes(self, runner: ModelServerRunner, shared_models: Path) -> None:
        directory = shared_models / "half_plus_two_tf2_cpu" / "00000123"
        with pytest.raises(KeyError), runner.serve(directory, "half", 1):
            raise KeyError("mine")

    def test_a_version_that_cannot_be_loaded(self, runner: ModelServerRunner, tmp_path: Path) -> None:
        (tmp_path / "saved_model.pb").write_bytes(b"garbage..")
        with pytest.raises(LoadFailed, match="Read less bytes than requested"), runner.serve(tmp_path, "half", 1):
            raise AssertionError("it serves")
