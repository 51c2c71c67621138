"""What clients are told of failures: the right status, one sentence, nothing of the inside."""

from __future__ import annotations

import json

import pytest

from tfs_deploy.errors import (
    Busy,
    CorruptModel,
    DeadlineExceeded,
    InvalidInput,
    ModelServerError,
    NotFound,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.gateway import problem
from tfs_deploy.gateway.problem import Problem

INSIDE = "10.0.0.7:8500 at /srv/models"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unreachable(INSIDE, INSIDE), 503),
        (DeadlineExceeded(INSIDE, INSIDE), 504),
        (NotFound(INSIDE, INSIDE), 503),
        (CorruptModel(INSIDE, INSIDE), 500),
        (Busy(INSIDE, INSIDE, code="RESOURCE_EXHAUSTED"), 429),
        (Busy(INSIDE, INSIDE, code="ABORTED"), 503),
        (Busy(INSIDE, INSIDE, code="CANCELLED"), 503),
        (Busy(INSIDE, INSIDE, code="UNAVAILABLE"), 503),
        *(
            (ModelServerError(INSIDE, INSIDE, code=code), status)
            for code, status in {
                "INVALID_ARGUMENT": 422,
                "OUT_OF_RANGE": 422,
                "RESOURCE_EXHAUSTED": 429,
                "UNAVAILABLE": 503,
                "CANCELLED": 503,
                "ABORTED": 503,
                "INTERNAL": 502,
                "UNKNOWN": 502,
                "DATA_LOSS": 502,
                "UNIMPLEMENTED": 502,
                "FAILED_PRECONDITION": 502,
                "PERMISSION_DENIED": 502,
            }.items()
        ),
    ],
)
def test_errors_of_model_servers(error: TFSDeployError, status: int) -> None:
    found = problem.from_error(error, "digits")
    assert found.status == status
    assert "10.0.0.7" not in found.detail
    assert ("Retry-After" in found.headers) == (status in (429, 503))
    assert found.detail.endswith(".")


def test_what_the_guard_says_is_told() -> None:
    found = problem.from_error(InvalidInput("The input 'x' must be DT_FLOAT.", "Convert it."), "digits")
    assert (found.status, found.detail) == (422, "The input 'x' must be DT_FLOAT. Convert it.")


def test_document() -> None:
    found = problem.unusable("Item 3 is no image.", item=3)
    assert found.headers == {"Content-Type": "application/problem+json"}
    assert json.loads(found.body(instance="/v1/models/m", request_id="r1")) == {
        "type": "about:blank",
        "title": "Unusable input",
        "status": 422,
        "detail": "Item 3 is no image.",
        "item": 3,
        "instance": "/v1/models/m",
        "request_id": "r1",
    }


def test_members_of_the_document_cannot_be_replaced() -> None:
    found = Problem(400, "Bad request", "No.", extra={"status": 200, "where": "here"})
    assert json.loads(found.body())["status"] == 400


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3")])
def test_retry_after_is_whole_seconds(seconds: float, header: str) -> None:
    assert problem.too_busy("Full.", retry_after=seconds).headers["Retry-After"] == header
