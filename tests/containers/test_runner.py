"""Throw-away servers on a fake engine: what they are told, and what is said when they die."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from fake_engine import FakeEngine
from fakes import FakeClock
from tfs_deploy.containers.engine import ContainerSpec
from tfs_deploy.containers.model_server import ServerDied, log_excerpt
from tfs_deploy.containers.options import Limits, OneModel, ServerOptions
from tfs_deploy.containers.ownership import Owner, Process, Purpose, owner_of
from tfs_deploy.containers.runner import ContainerRunner, Delivery, runners_for
from tfs_deploy.errors import InvalidInput, LoadFailed, Unreachable


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(("server:1", "server:2", "dies:1"))


def runner(engine: FakeEngine, image: str = "server:1", **more: Any) -> ContainerRunner:
    options = ServerOptions(image=image, limits=Limits(memory="2g"))
    return ContainerRunner(options, connect=engine.connect, clock=FakeClock(), **more)


def test_a_mounted_directory(engine: FakeEngine, tmp_path: Path) -> None:
    with runner(engine).serve(tmp_path, "digits", 7) as target:
        (held,) = engine.containers.values()
        assert target == f"127.0.0.1:{held.state.ports[8500]}"
        assert "--max_num_load_retries=0" in held.spec.arguments
        assert held.spec.environment["MODEL_NAME"] == "digits"
        assert [(mount.source, mount.target) for mount in held.spec.mounts] == [(str(tmp_path), "/models/digits/7")]
        assert held.spec.user == f"{os.getuid()}:{os.getgid()}"
        assert held.spec.limits.memory == "2g"
        owner = owner_of(held.spec.labels)
        assert owner is not None
        assert (owner.purpose, owner.process) == (Purpose.THROW_AWAY, Process.current())
    assert engine.containers == {}


def test_a_copied_directory(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "index").write_bytes(b"i")
    with runner(engine, delivery=Delivery.COPY).serve(tmp_path, "digits", 1):
        (held,) = engine.containers.values()
        assert held.files == {"/models/digits/1/variables/index": b"i"}
        assert held.spec.mounts == ()
        assert held.spec.user == ""


def test_leftovers_of_dead_processes_go_first(engine: FakeEngine, tmp_path: Path) -> None:
    dead = Owner(Purpose.THROW_AWAY, dataclasses.replace(Process.current(), started=0))
    engine.create(ContainerSpec("server:1", (), {}, dead.labels("old")))
    with runner(engine).serve(tmp_path, "digits", 1):
        assert len(engine.containers) == 1


def test_a_server_that_ends_before_it_serves(engine: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="UNKNOWN: no"), runner(engine, "dies:1").serve(tmp_path, "digits", 1):
        pass
    assert engine.containers == {}


@pytest.mark.parametrize("raises", [True, False])
def test_a_server_that_ends_inside_the_block(engine: FakeEngine, tmp_path: Path, raises: bool) -> None:
    def use() -> str:
        with runner(engine).serve(tmp_path, "digits", 1):
            next(iter(engine.containers.values())).end(139)
            if raises:
                raise Unreachable("The replica went away.", "Start it.")
            return "not decided"

    with pytest.raises(ServerDied, match="ended with code 139"):
        use()
    assert engine.containers == {}


def test_an_error_that_is_not_the_servers(engine: FakeEngine, tmp_path: Path) -> None:
    with pytest.raises(KeyError), runner(engine).serve(tmp_path, "digits", 1):
        raise KeyError("mine")
    assert engine.containers == {}


def test_somebody_else_may_stop_it(engine: FakeEngine, tmp_path: Path) -> None:
    started: list[Any] = []
    with runner(engine, on_start=started.append).serve(tmp_path, "digits", 1):
        started[0].stop()
        assert engine.containers == {}


def test_one_runner_per_image(engine: FakeEngine) -> None:
    runners = runners_for(["server:2", "server:1"], ServerOptions(), connect=engine.connect)
    assert {name: one.options.image for name, one in runners.items()} == {
        "server:2": "server:2",
        "server:1": "server:1",
    }
    assert list(runners) == ["server:2", "server:1"]
    with pytest.raises(InvalidInput, match="No image"):
        runners_for([], ServerOptions())
    with pytest.raises(InvalidInput, match="not a reference"):
        runners_for(["A B"], ServerOptions())


def test_options_that_name_a_model_of_their_own() -> None:
    with pytest.raises(InvalidInput, match="its options name a model"):
        ContainerRunner(ServerOptions(model=OneModel(name="m")))


def test_log_excerpt() -> None:
    log = (
        "2026-01-01 10:00:00.123456: I tensorflow_serving/model_servers/server.cc:74] Building single model file\n"
        "2026-01-01 10:00:01.123456: E tensorflow_serving/util/retrier.cc:37] Loading failed: NOT_FOUND: no tags\n"
    )
    assert log_excerpt(log) == "Loading failed: NOT_FOUND: no tags"
    assert log_excerpt(log + "Failed to start server. Error: UNKNOWN: 1 servable\nbye\n") == "UNKNOWN: 1 servable"
    assert log_excerpt("one\ntwo\nthree\nfour\n") == "two / three / four"
    assert log_excerpt("") == "it wrote nothing"
    assert len(log_excerpt("error " * 10000)) < 1000
