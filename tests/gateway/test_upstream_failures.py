"""What an error of a model server means for a request of the gateway."""

from __future__ import annotations

import pytest

from tfs_deploy.gateway.upstream.attempt import FailureKind, failure_kind
from tfs_deploy.serving import rpc


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; Connection reset by peer", FailureKind.REFUSED),
        ("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full", FailureKind.REFUSED),
        ("UNAVAILABLE", "Socket closed", FailureKind.LOST),
        ("INTERNAL", "Received RST_STREAM with error code 2", FailureKind.LOST),
        ("UNKNOWN", "Stream removed", FailureKind.LOST),
        ("CANCELLED", "", FailureKind.LOST),
        ("ABORTED", "", FailureKind.LOST),
        ("NOT_FOUND", "Servable not found for request: Specific(m, 2)", FailureKind.ABSENT),
        ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted", FailureKind.FINAL),
        ("DEADLINE_EXCEEDED", "", FailureKind.FINAL),
        ("INVALID_ARGUMENT", "input size does not match signature", FailureKind.FINAL),
        ("INTERNAL", "Blas GEMM launch failed", FailureKind.FINAL),
        ("UNIMPLEMENTED", "", FailureKind.FINAL),
    ],
)
def test_kind_of_a_failed_attempt(code: str, details: str, kind: FailureKind) -> None:
    error = rpc.to_error(code, details, target="h:1", action="Predict on model 'm'", timeout=1.0)
    assert failure_kind(error) is kind
