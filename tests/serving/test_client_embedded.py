"""The suite of every ServingClient, with the real client on the embedded model server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.serving_client_suite import ServingClientSuite, loaded
from embedded_server import EmbeddedServer
from tfs_deploy.serving import client
from tfs_deploy.serving.config import to_proto
from tfs_deploy.serving.replies import VersionState

__all__ = ["loaded"]  # a fixture of the suite

pytestmark = pytest.mark.tensorflow

SECONDS = 30.0


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("half_plus_two") / "model"
    script = Path(__file__).with_name("write_half_plus_two.py")
    done = subprocess.run([sys.executable, str(script), str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as started:
        yield started


class Embedded:
    def __init__(self, server: EmbeddedServer, saved_model: Path, root: Path) -> None:
        self.client = client.connect(server.target)
        self._target = server.target
        self._saved_model = saved_model
        self._root = root

    def base_path(self, model: str) -> str:
        return str(self._root / model)

    def put(self, model: str, version: int, *, broken: bool = False) -> None:
        base = self._root / model
        base.mkdir(exist_ok=True)
        staged = base / f"staged-{version}"
        if broken:
            staged.mkdir()
        else:
            shutil.copytree(self._saved_model, staged)
        staged.rename(base / str(version))

    def settle(self, model: str, version: int) -> None:
        end = time.monotonic() + SECONDS
        while True:
            rows = self.client.status(model, version, timeout=SECONDS)
            if rows and rows[0].state in (VersionState.AVAILABLE, VersionState.END):
                return
            assert time.monotonic() < end, f"{model} {version} did not settle: {rows}"
            time.sleep(0.05)

    def end(self) -> None:
        self.client.close()
        with client.connect(self._target) as cleaner:
            cleaner.reload(to_proto([]), timeout=SECONDS)


class TestSyncClientOnEmbeddedServer(ServingClientSuite):
    @pytest.fixture
    def model(self, request: pytest.FixtureRequest) -> str:
        """A name of the test's own: the server keeps the rows of every model for its life."""
        return f"m{abs(hash(request.node.nodeid)):x}"

    @pytest.fixture
    def serving(self, server: EmbeddedServer, saved_model: Path, tmp_path: Path) -> Iterator[Embedded]:
        embedded = Embedded(server, saved_model, tmp_path)
        yield embedded
        embedded.end()
