"""A validation on a throw-away server: a server that was killed says nothing about the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fakes import FakeClock
from saved_model_files import write_saved_model
from tfs_deploy.deployment.offline_validation import LOAD_GATE, validate_in_each
from tfs_deploy.errors import LoadFailed, LoadInterrupted, TFSDeployError
from tfs_deploy.validation.config import gates_from
from tfs_deploy.validation.report import Verdict


class EndingRunner:
    """Starts a server that ends with `error` before it serves."""

    def __init__(self, error: TFSDeployError) -> None:
        self._error = error

    @contextmanager
    def serve(self, directory: object, model: str, version: int) -> Iterator[str]:
        raise self._error
        yield ""


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (
            LoadInterrupted("It was killed for using more memory than its limit 1g.", "Give it more."),
            Verdict.INCONCLUSIVE,
        ),
        (LoadFailed("It ended with code 255: no variables.", "Correct the model."), Verdict.FAIL),
    ],
)
def test_the_end_of_a_throw_away_server(tmp_path, error: TFSDeployError, verdict: Verdict) -> None:
    directory = write_saved_model(tmp_path / "model", "good")
    report = validate_in_each(
        directory, "m", gates_from({}), runners={"image:1": EndingRunner(error)}, clock=FakeClock()
    )
    assert report.verdict is verdict
    assert [(check.gate, check.replica, check.detail) for check in report.checks] == [
        (LOAD_GATE, "image:1", error.cause)
    ]
