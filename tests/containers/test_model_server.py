"""The life of a model server in a container: nothing is left of it wherever it breaks off, or is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_engine import FakeEngine
from fakes import FakeClock
from tfs_deploy.containers.engine import PortTaken
from tfs_deploy.containers.model_server import Lifecycle, ModelServerContainer, ServerDied, ServerKilled
from tfs_deploy.containers.options import Files, ModelRoot, OneModel, Ports, Restart, RestartPolicy, ServerOptions
from tfs_deploy.containers.ownership import Owner, Purpose
from tfs_deploy.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Refused,
    SetupError,
    TFSDeployError,
    Transient,
    Unreachable,
)

OWNER = Owner(Purpose.RUN, None, "dag", "run", "task")
CALLS = ("require_image", "create", "copy_in", "start", "inspect")


class Killed(BaseException):
    """What a signal handler raises in the middle of anything."""


def container(engine: FakeEngine, **options: Any) -> ModelServerContainer:
    settings = {"image": "server:1", "model": OneModel(name="m"), **options}
    return ModelServerContainer(
        ServerOptions(**settings), OWNER, connect=engine.connect, clock=FakeClock(), start_seconds=5
    )


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(("server:1", "dies:1", "mute:1"))


def test_from_start_to_stop(engine: FakeEngine) -> None:
    server = container(engine, model_root=ModelRoot(directory="/"), name="mine")
    assert server.state is Lifecycle.NEW
    running = server.start()
    assert server.state.value == "listening"
    (held,) = engine.containers.values()
    assert running.grpc == f"127.0.0.1:{held.state.ports[8500]}"
    assert running.rest == f"127.0.0.1:{held.state.ports[8501]}"
    assert (running.name, running.container) == ("mine", next(iter(engine.containers)))
    assert held.spec.environment == {"MODEL_NAME": "m", "MODEL_BASE_PATH": "/models"}
    assert [(mount.source, mount.target, mount.read_only) for mount in held.spec.mounts] == [("/", "/models", True)]
    server.require_running()
    server.stop()
    server.stop()
    assert server.state.value == "stopped"
    assert engine.containers == {}
    with pytest.raises(Refused, match="started before"):
        server.start()


def test_stop_before_start_asks_nobody(engine: FakeEngine) -> None:
    server = container(engine)
    server.stop()
    assert engine.calls == []
    assert server.state is Lifecycle.STOPPED


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return a file to copy, so that every call of the engine is made."""
    (tmp_path / "session").write_text("")
    return Files(session=str(tmp_path / "session"))


AWAY = Unreachable("The engine went away.", "Start it.")


@pytest.mark.parametrize("error", [Killed(), AWAY, MemoryError()], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_start_leaves_nothing_when_it_breaks_off(
    engine: FakeEngine, error: BaseException, call: str, files: Files
) -> None:
    engine.before[call] = error
    server = container(engine, files=files)
    with pytest.raises(type(error)):
        server.start()
    assert engine.containers == {}
    assert server.state is Lifecycle.STOPPED


@pytest.mark.parametrize("error", [Killed(), AWAY], ids=repr)
@pytest.mark.parametrize("call", ["create", "start"])
def test_start_leaves_nothing_when_the_answer_never_came(engine: FakeEngine, error: BaseException, call: str) -> None:
    engine.after[call] = error
    with pytest.raises(type(error)):
        container(engine).start()
    assert engine.containers == {}


@pytest.mark.parametrize("call", CALLS)
def test_stop_while_start_runs(engine: FakeEngine, call: str, files: Files) -> None:
    """As from a signal handler: `stop` comes inside of a call of `start`, which then must not go on."""
    server = container(engine, files=files)
    engine.before[call] = _once(server.stop)
    with pytest.raises((Refused, NotFound)):
        server.start()
    assert engine.containers == {}


def test_a_container_that_appears_after_stop_looked_for_it(engine: FakeEngine) -> None:
    """The engine is slow to create: `stop` waits for what was asked for."""
    server = container(engine)
    late: list[Callable[[], None]] = []

    def find_later() -> None:
        if late and len(engine.calls) > 6:
            late.pop()()

    held: dict[str, Any] = {}

    def hide() -> None:
        held.update(engine.containers)
        engine.containers.clear()
        late.append(lambda: engine.containers.update(held))
        raise Killed

    engine.after["create"] = hide
    engine.before["find"] = find_later
    with pytest.raises(Killed):
        server.start()
    assert held
    assert engine.containers == {}


def test_what_the_engine_refuses(engine: FakeEngine) -> None:
    with pytest.raises(NotFound, match="no image absent:1"):
        container(engine, image="absent:1").start()
    with pytest.raises(NotFound, match="has no directory"):
        container(engine, model_root=ModelRoot(directory="/absent/models")).start()
    first = container(engine)
    port = int(first.start().grpc.rpartition(":")[2])
    with pytest.raises(PortTaken, match=f"Port {port} is taken"):
        container(engine, ports=Ports(grpc=port)).start()
    first.stop()
    assert engine.containers == {}


def test_a_server_that_ends_says_why(engine: FakeEngine) -> None:
    with pytest.raises(ServerDied, match=r"ended with code 255\. The end of its log: UNKNOWN: no") as caught:
        container(engine, image="dies:1").start()
    assert "Failed to start server" in caught.value.log
    assert engine.containers == {}


@pytest.mark.parametrize(
    ("code", "for_memory", "error", "says"),
    [
        (137, True, ServerKilled, "killed for using more memory"),
        (137, False, ServerKilled, r"killed from outside \(code 137\)"),
        (143, False, ServerKilled, "code 143"),
        (139, False, ServerDied, "ended with code 139"),
    ],
)
def test_a_server_that_dies_later(
    engine: FakeEngine, code: int, for_memory: bool, error: type[TFSDeployError], says: str
) -> None:
    server = container(engine)
    server.start()
    (held,) = engine.containers.values()
    held.end(code, for_memory=for_memory)
    with pytest.raises(error, match=says) as caught:
        server.require_running()
    assert isinstance(caught.value, Transient) is (error is ServerKilled)
    server.stop()
    server.require_running()
    assert engine.containers == {}


def test_a_server_that_cannot_read_its_model_is_no_fault_of_the_model(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "Failed to start server. Error: UNKNOWN: 1 servable(s): {name: m} due to error: PERMISSION_DENIED: /m/1"
    monkeypatch.setattr(engine, "log", lambda container, *, lines: log)
    with pytest.raises(SetupError, match=r"ended with code 255\..*PERMISSION_DENIED"):
        container(engine, image="dies:1").start()
    assert engine.containers == {}


def test_a_server_whose_end_the_engine_learns_late(engine: FakeEngine) -> None:
    server = container(engine)
    server.start()
    (held,) = engine.containers.values()
    for listener in held.listeners:
        listener.close()
    held.listeners = []
    looks = engine.calls.count("inspect")

    def end_later() -> None:
        if engine.calls.count("inspect") == looks + 3:
            held.end(134)

    engine.before["inspect"] = end_later
    with pytest.raises(ServerDied, match="ended with code 134"):
        server.require_running()
    server.stop()


def test_a_server_that_opens_no_port(engine: FakeEngine) -> None:
    with pytest.raises(DeadlineExceeded, match="opened no port within 5 s"):
        container(engine, image="mute:1").start()
    assert engine.containers == {}


def test_a_server_that_the_engine_starts_again_may_end(engine: FakeEngine) -> None:
    policy = RestartPolicy(policy=Restart.ON_FAILURE, retries=2)
    with pytest.raises(DeadlineExceeded):
        container(engine, image="dies:1", restart=policy).start()


def test_options_by_which_nobody_reaches_the_server(engine: FakeEngine) -> None:
    with pytest.raises(InvalidInput, match="no network"):
        container(engine, ports=Ports(publish=False))
    with pytest.raises(InvalidInput, match="neither a model nor"):
        container(engine, model=None)


def test_a_bad_command_line_makes_no_container(engine: FakeEngine) -> None:
    with pytest.raises(InvalidInput, match="Did you mean --enable_batching"):
        container(engine, arguments=("--enable_batchng",)).start()
    assert "create" not in engine.calls


def test_an_engine_that_goes_away_before_the_stop(engine: FakeEngine) -> None:
    server = container(engine)
    server.start()
    engine.before["find"] = Unreachable("The engine went away.", "Start it.")
    with pytest.raises(TFSDeployError):
        server.stop()
    del engine.before["find"]
    server.stop()
    assert engine.containers == {}


def _once(act: Callable[[], None]) -> Callable[[], None]:
    left = [act]

    def do() -> None:
        if left:
            left.pop()()

    return do
