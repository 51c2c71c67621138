"""Images and engines for tests on a real engine; each test says what it needs, and skips with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from on_docker import stand_in
from on_docker.engine import LOCAL_BASE, MODEL_SERVER, require
from tfs_deploy.containers.docker_engine import DockerEngine, connect


@pytest.fixture(autouse=True, scope="session")
def _engine_is_there() -> None:
    require()


@pytest.fixture(scope="session")
def light_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the image of the stand-in, for this run only."""
    require(LOCAL_BASE)
    yield stand_in.build(tmp_path_factory.mktemp("stand_in"))
    stand_in.remove()


@pytest.fixture(scope="session")
def model_server_image() -> str:
    require(MODEL_SERVER)
    return MODEL_SERVER


@pytest.fixture
def engine() -> Iterator[DockerEngine]:
    require()
    engine = connect()
    yield engine
    engine.close()
