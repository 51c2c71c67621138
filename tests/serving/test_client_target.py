"""The form of a target."""

from __future__ import annotations

import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.client import check_target


@pytest.mark.parametrize(
    "target",
    [
        "localhost:8500",
        "serving-0.ml.svc:8500",
        "10.0.0.1:1",
        "[::1]:65535",
        "[fe80::1%eth0]:8500",
        "unix:/run/s",
    ],
)
def test_addresses_of_model_servers(target: str) -> None:
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "localhost",
        "localhost:",
        ":8500",
        "localhost:0",
        "localhost:65536",
        "localhost:8500/v1",
        "http://localhost:8501",
        "::1:8500",
        "a b:8500",
        "user@host:8500",
        "host:8500\n",
        "a:8500,b:8500",
        None,
    ],
)
def test_other_texts_are_refused(target: str) -> None:
    with pytest.raises(InvalidInput, match=r"target"):
        check_target(target)
