"""The embedded model server as a throw-away one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.model_server_runner_suite import ModelServerRunnerSuite
from tfs_deploy.errors import LoadFailed, LoadInterrupted, SetupError, TFSDeployError
from tfs_deploy.serving.runner import EmbeddedRunner

REFUSED = (
    "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
    "{{{{{{name: m version: 1}} due to error: {}: why}}, }}"
)


@pytest.mark.tensorflow
class TestEmbeddedRunner(ModelServerRunnerSuite):
    @pytest.fixture
    def runner(self) -> EmbeddedRunner:
        return EmbeddedRunner()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("os.kill(os.getpid(), 9)", LoadInterrupted),
        ("os.kill(os.getpid(), 15)", LoadInterrupted),
        ("print('Error: cannot listen on 0.0.0.0:1; is the port taken?'); os._exit(255)", LoadInterrupted),
        ("os.kill(os.getpid(), 11)", LoadFailed),
        ("os._exit(255)", LoadFailed),
        (f"print({REFUSED.format('NOT_FOUND')!r}); os._exit(255)", LoadFailed),
        (f"print({REFUSED.format('RESOURCE_EXHAUSTED')!r}); os._exit(255)", LoadInterrupted),
        (f"print({REFUSED.format('PERMISSION_DENIED')!r}); os._exit(255)", SetupError),
    ],
)
def test_a_server_that_was_killed_says_nothing_about_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, error: type[TFSDeployError]
) -> None:
    start = subprocess.Popen

    def ending(command: list[str], **options: object) -> object:
        return start([sys.executable, "-c", f"import os; {end}"], **options)

    monkeypatch.setattr(subprocess, "Popen", ending)
    with (
        pytest.raises(error, match="throw-away model server ended with code"),
        EmbeddedRunner().serve(tmp_path, "m", 1),
    ):
        pass
