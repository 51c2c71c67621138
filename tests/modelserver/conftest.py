"""Fixtures of the model server's tests: small SavedModels, one shared server, a base path per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from modelserver.models_on_disk import install_copy, models_of_this_run
from modelserver.wire import Wire
from modelserver.wire import wait_state as wait_state


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModels of make_models.py, by name; do not change them."""
    return models_of_this_run(tmp_path_factory)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One server, started on ``model_config_list { }``, for most tests."""
    with EmbeddedServer(RPC_DRIVEN_FLAGS) as started:
        yield started
        assert started.process is not None
        assert started.process.poll() is None, f"a test killed the server:\n{started.log()}"


@pytest.fixture
def wire(server: EmbeddedServer) -> Iterator[Wire]:
    """The shared server's wire; every model is gone from the config afterwards."""
    connected = Wire(server.target)
    yield connected
    connected.reload()
    connected.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name of the test's own: rows stay for the life of the server."""
    return request.node.name.replace("[", "_").replace("]", "")


@pytest.fixture
def install(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Put a copy of a model where the server sees it at once: ``install("scale2", 7)`` -> <base>/7."""

    def put(which: str, version: int | str, base: Path | None = None) -> Path:
        return install_copy(models / which, (base or tmp_path / "base") / str(version))

    return put
