"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Some tests fork in a process where calls of others may still run; gRPC's fork handlers are not made for that.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

REPOSITORY = Path(__file__).resolve().parents[1]

# `make test` tries the same examples every time, so that a red run is about the change. What is found by looking
# further (pytest --hypothesis-profile=search) belongs into the test as an example of its own. How long an example
# takes, and how soon it is made up, is no finding: machines are busy.
_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeat", derandomize=True, **_PATIENT)
settings.register_profile("search", max_examples=2000, print_blob=True, **_PATIENT)
settings.load_profile("repeat")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests/contract/model_server be pointed at any model server; here, so that plain ``pytest`` knows it too."""
    group = parser.getgroup("model server")
    group.addoption(
        "--server-command",
        metavar="COMMAND",
        help="starts the model server of tests/contract/model_server; flags are appended (default: the embedded one)",
    )
    group.addoption(
        "--model-root",
        metavar="DIRECTORY",
        help="where tests/contract/model_server puts all models and config files (default: a temporary directory)",
    )


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The SavedModels that this project did not write; they stand beside a checkout in CI."""
    models = REPOSITORY.parent / "shared" / "models"
    if not models.is_dir():
        pytest.skip("the SavedModels of ../shared/models are not beside this checkout")
    return models


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a line at the end of the run: how much was tried, and how much of it went wrong."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told, from all processes that ran tests."""
    # Under "" are the ends of tests that went well; only they hold everything.
    for report in terminalreporter.stats.get("", ()):
        for name, line in getattr(report, "user_properties", ()):
            if name == "told" and report.when == "teardown":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[0]}: {line}")
