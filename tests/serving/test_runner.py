"""The embedded model server as a throw-away one."""

from __future__ import annotations

import pytest

from contract.model_server_runner_suite import ModelServerRunnerSuite
from tfs_deploy.serving.runner import EmbeddedRunner


@pytest.mark.tensorflow
class TestEmbeddedRunner(ModelServerRunnerSuite):
    @pytest.fixture
    def runner(self) -> EmbeddedRunner:
        return EmbeddedRunner()
