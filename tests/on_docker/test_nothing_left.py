"""A hundred starts and stops, a task that is killed, and the reaper after it: no container is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from on_docker.engine import containers, plain_environment, wait_for
from tfs_deploy.clock import SystemClock
from tfs_deploy.containers.docker_engine import DockerEngine, connect
from tfs_deploy.containers.engine import PortTaken
from tfs_deploy.containers.model_server import ModelServerContainer, ServerDied
from tfs_deploy.containers.options import OneModel, Ports, ServerOptions
from tfs_deploy.containers.ownership import DAG_LABEL, RUN_LABEL, Owner, Process, Purpose, leftovers, reap
from tfs_deploy.errors import NotFound, Refused, TFSDeployError

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

CYCLES = 100
# A process of its own that starts a throw-away server, says so, and waits to be ended.
CHILD = """
import os, sys, time
from pathlib import Path
from tfs_deploy.cli.exit_codes import Terminated
from tfs_deploy.clock import SystemClock
from tfs_deploy.containers.ownership import Owner, Process, Purpose
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.containers.runner import ContainerRunner
import signal

def end(*_):
    raise Terminated

signal.signal(signal.SIGTERM, end)
image, run, folder = sys.argv[1:]
owner = Owner(Purpose.THROW_AWAY, Process.current(), "test", run, "task")
with ContainerRunner(ServerOptions(image=image), owner=owner).serve(Path(folder), "m", 1) as target:
    print("serving", target, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run() -> str:
    return uuid.uuid4().hex


def server(image: str, run: str, **options: object) -> ModelServerContainer:
    settings = {"image": image, "model": OneModel(name="m"), "stop_seconds": 5, **options}
    owner = Owner(Purpose.THROW_AWAY, Process.current(), "test", run, "task")
    return ModelServerContainer(ServerOptions(**settings), owner, connect=connect, start_seconds=120)


def test_a_hundred_cycles(light_image: str, run: str) -> None:
    """Every fifth is stopped from elsewhere while it starts, every seventh dies by itself."""

    def cycle(number: int) -> str:
        options = {"environment": {"MODE": "die"}} if number % 7 == 0 else {}
        one = server(light_image, run, **options)
        stopper = threading.Timer(0.05 * (number % 20), one.stop)
        if number % 5 == 0:
            stopper.start()
        try:
            one.start()
            return "listened"
        except ServerDied:
            return "died"
        except (Refused, NotFound):
            return "stopped"
        finally:
            stopper.cancel()
            if stopper.ident is not None:
                stopper.join(60)
            one.stop()

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(cycle, range(1, CYCLES + 1)))
    assert containers(f"{RUN_LABEL}={run}") == []
    assert len(ends) == CYCLES
    assert {"listened", "died"} <= set(ends)
    print({end: ends.count(end) for end in set(ends)})


def test_a_port_clash(light_image: str, run: str) -> None:
    with server(light_image, run) as first:
        port = int(first.grpc.rpartition(":")[2])
        with pytest.raises(PortTaken, match=f"Port {port} is taken"):
            server(light_image, run, ports=Ports(grpc=port)).start()
        assert len(containers(f"{RUN_LABEL}={run}")) == 1
    assert containers(f"{RUN_LABEL}={run}") == []


def test_an_image_that_is_not_there(run: str, engine: DockerEngine) -> None:
    # A registry that answers nothing: port 1 of this machine.
    with pytest.raises(TFSDeployError, match="has no image"):
        server(f"localhost:1/absent-{run}:1", run).start()
    assert containers(f"{RUN_LABEL}={run}") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_task_that_is_ended(
    number: signal.Signals, light_image: str, run: str, tmp_path, engine: DockerEngine
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, light_image, run, str(tmp_path)],
        env=plain_environment(PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("serving")
        assert len(containers(f"{RUN_LABEL}={run}")) == 1
        mine = [one for one in leftovers(engine, clock=SystemClock()) if one.owner.run == run]
        assert mine == [], "its process lives"
        child.send_signal(number)
        child.wait(60)
        if number == signal.SIGKILL:
            # Nobody but a reaper can remove it now: this one, or that of a test beside this one.
            reap(engine, clock=SystemClock())
        wait_for("the end of the container", lambda: containers(f"{RUN_LABEL}={run}") == [])
    finally:
        child.kill()
        child.wait()
        for found in engine.find({DAG_LABEL: "test", RUN_LABEL: run}):
            engine.remove(found.id)
