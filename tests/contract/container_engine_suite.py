"""What every container engine promises to the life cycle of a model server: run against the fake and against Docker."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tfs_deploy.containers.engine import ContainerEngine, ContainerSpec, Mount, NoGpu, PortTaken, PublishedPort
from tfs_deploy.containers.options import Gpus
from tfs_deploy.errors import NotFound, TFSDeployError

Make = Callable[..., str]
INSIDE = 8500
TEST_LABEL = "tfs_deploy.test"


class ContainerEngineSuite:
    """Subclasses give the fixtures `engine` and `image`, one that listens on 8500 and ends with 0 on SIGTERM."""

    @pytest.fixture
    def run(self) -> str:
        return uuid.uuid4().hex

    @pytest.fixture
    def make(self, engine: ContainerEngine, image: str, run: str) -> Iterator[Make]:
        """Make containers that are gone after the test."""

        def create(**more: Any) -> str:
            labels = {TEST_LABEL: run, **more.pop("labels", {})}
            return engine.create(ContainerSpec(more.pop("image", image), (), {}, labels, **more))

        yield create
        for found in engine.find({TEST_LABEL: run}):
            engine.remove(found.id)

    def test_a_life(self, engine: ContainerEngine, make: Make, run: str) -> None:
        name = make(name=f"test-{run[:12]}", ports=(PublishedPort(INSIDE, "127.0.0.1", None),))
        before = engine.inspect(name)
        assert (before.running, before.started) == (False, False)
        engine.start(name)
        state = engine.inspect(name)
        assert (state.running, state.started) == (True, True)
        assert 0 < state.ports[INSIDE] < 65536
        self.wait_for_port(state.ports[INSIDE])
        (found,) = engine.find({TEST_LABEL: run})
        assert (found.id, found.name, found.running) == (name, f"test-{run[:12]}", True)
        engine.stop(name)
        assert not engine.inspect(name).running
        engine.remove(name)
        assert engine.find({TEST_LABEL: run}) == ()

    def test_what_is_gone(self, engine: ContainerEngine, make: Make) -> None:
        name = make()
        engine.remove(name)
        engine.remove(name)
        engine.stop(name)
        assert engine.log(name, lines=10) == ""
        for call in (lambda: engine.inspect(name), lambda: engine.start(name), lambda: engine.copy_in(name, {}, {})):
            with pytest.raises(NotFound):
                call()

    def test_one_that_runs_is_removed(self, engine: ContainerEngine, make: Make, run: str) -> None:
        name = make()
        engine.start(name)
        engine.remove(name)
        assert engine.find({TEST_LABEL: run}) == ()

    def test_find_by_all_labels(self, engine: ContainerEngine, make: Make, run: str) -> None:
        first, second = make(labels={"a": "1", "b": "x"}), make(labels={"a": "2"})

        def ids(**labels: str) -> set[str]:
            return {one.id for one in engine.find({TEST_LABEL: run, **labels})}

        assert ids() == ids(a="") == {first, second}
        assert ids(a="1") == ids(a="1", b="x") == {first}
        assert ids(a="2", b="x") == ids(c="") == set()

    def test_a_taken_port(self, engine: ContainerEngine, make: Make) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            name = make(ports=(PublishedPort(INSIDE, "127.0.0.1", port),))
            with pytest.raises(PortTaken, match=f"Port {port} is taken"):
                engine.start(name)

    def test_no_gpu(self, engine: ContainerEngine, make: Make) -> None:
        with pytest.raises(NoGpu, match="has no GPU"):
            engine.start(make(gpus=Gpus(all=True)))

    def test_a_missing_directory(self, engine: ContainerEngine, make: Make, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="has no directory"):
            engine.start(make(mounts=(Mount(str(tmp_path / "absent"), "/models"),)))

    def test_an_image_that_is_not_there(self, engine: ContainerEngine, make: Make, run: str) -> None:
        with pytest.raises(NotFound, match="no image"):
            make(image=f"absent-{run}:1")
        # Docker asks a registry, which it may not reach: another error, and as clear.
        with pytest.raises(TFSDeployError, match="no image"):
            engine.require_image(f"localhost:1/absent-{run}:1")

    def test_a_name_that_is_taken(self, engine: ContainerEngine, make: Make, run: str) -> None:
        make(name=f"test-{run[:12]}")
        with pytest.raises(TFSDeployError, match="in use"):
            make(name=f"test-{run[:12]}")

    def wait_for_port(self, port: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
                    probe.settimeout(5)
                    if probe.recv(1):
                        return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError("nobody listens")
