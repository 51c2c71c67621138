"""Docker keeps the promises of an engine, and says clearly what it refuses."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.container_engine_suite import ContainerEngineSuite
from tfs_deploy.containers.docker_engine import DockerEngine, connect
from tfs_deploy.containers.model_server import ModelServerContainer
from tfs_deploy.containers.options import Limits, ModelRoot, OneModel, ServerOptions, options_from
from tfs_deploy.containers.ownership import Owner, Purpose
from tfs_deploy.containers.runner import ContainerRunner, Delivery
from tfs_deploy.errors import NotFound, TFSDeployError, Unreachable

pytestmark = pytest.mark.docker

OWNER = Owner(Purpose.LONG_LIVED, None)


class TestDockerEngine(ContainerEngineSuite):
    @pytest.fixture
    def image(self, light_image: str) -> str:
        return light_image

    def test_files_are_copied_readable_for_anybody(self, engine: DockerEngine, make, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir(mode=0o700)
        (tmp_path / "deep" / "weights").write_bytes(b"w" * 100_000)
        (tmp_path / "deep" / "weights").chmod(0o600)
        name = make()
        engine.copy_in(name, {"/etc/tfs_deploy/a.config": b"text"}, {"/models/m/1": str(tmp_path)})
        chunks, _ = engine._api.get_archive(name, "/models/m/1/deep/weights")
        assert b"w" * 1000 in b"".join(chunks)


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    for address in (f"unix://{tmp_path}/absent.sock", "tcp://127.0.0.1:1"):
        with pytest.raises(Unreachable, match=r"does not answer: (No such file|Connection refused)") as caught:
            connect(address)
        assert "dockerd" in caught.value.remedy


@pytest.fixture
def far_engine(engine: DockerEngine) -> Iterator[str]:
    """Return a TCP address of the engine, as of one on another machine."""
    path = engine.address.partition("://")[2]

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(path)
                ends = {self.request: there, there: self.request}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_engine_on_another_machine(far_engine: str, light_image: str, tmp_path: Path) -> None:
    """Its ports are published on all addresses, and models are copied, since it sees none of our directories."""
    (tmp_path / "saved_model.pb").write_bytes(b"bytes")
    started: list[ModelServerContainer] = []
    runner = ContainerRunner(
        ServerOptions(image=light_image),
        delivery=Delivery.COPY,
        connect=lambda: connect(far_engine),
        on_start=started.append,
    )
    with runner.serve(tmp_path, "m", 3) as target:
        far = connect(far_engine)
        assert not far.local
        data = far._api.inspect_container(started[0].container)
        assert {one["HostIp"] for one in data["NetworkSettings"]["Ports"]["8500/tcp"]} == {"0.0.0.0"}
        assert target.startswith("127.0.0.1:")
        chunks, _ = far._api.get_archive(started[0].container, "/models/m/3/saved_model.pb")
        assert b"bytes" in b"".join(chunks)
        far.close()


def test_everything_that_docker_run_can_say(engine: DockerEngine, light_image: str, tmp_path: Path) -> None:
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    options = options_from(
        {
            "image": light_image,
            "name": "tfs-deploy-test-everything",
            "model": {"name": "m"},
            "model_root": {"directory": str(tmp_path), "target": "/models"},
            "files": {"monitoring": str(tmp_path / "monitoring")},
            "limits": {"memory": "256m", "cpus": 0.5},
            "environment": {"A": "b"},
            "network": "bridge",
            "user": "65534",
            "restart": {"policy": "on-failure", "retries": 3},
            "ports": {"address": "127.0.0.1"},
            "loading": {"retries": 0},
            "stop_seconds": 7,
            "arguments": ["--enable_grpc_healthcheck_service=true"],
        }
    )
    with ModelServerContainer(options, OWNER, connect=connect) as running:
        data = engine._api.inspect_container(running.container)
        host, config = data["HostConfig"], data["Config"]
        assert data["Name"] == "/tfs-deploy-test-everything"
        assert (host["Memory"], host["NanoCpus"], host["Init"]) == (256 << 20, 500_000_000, True)
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        assert (host["NetworkMode"], config["User"], config["StopTimeout"]) == ("bridge", "65534", 7)
        assert {"A=b", "MODEL_NAME=m", "MODEL_BASE_PATH=/models"} <= set(config["Env"])
        assert config["Cmd"] == [
            "--monitoring_config_file=/etc/tfs_deploy/monitoring.config",
            "--max_num_load_retries=0",
            "--enable_grpc_healthcheck_service=true",
        ]
        (mount,) = data["Mounts"]
        assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(tmp_path), "/models", False)
        assert config["Labels"]["tfs_deploy.project"] == "tfs_deploy"
        assert [one["HostIp"] for one in data["NetworkSettings"]["Ports"]["8500/tcp"]] == ["127.0.0.1"]
    with pytest.raises(NotFound):
        engine.inspect(running.container)


def test_a_volume_and_the_hosts_network(engine: DockerEngine, light_image: str) -> None:
    volume = f"tfs-deploy-test-{uuid.uuid4().hex[:12]}"
    options = ServerOptions(
        image=light_image, model=OneModel(name="m"), model_root=ModelRoot(volume=volume), network="host"
    )
    try:
        with ModelServerContainer(options, OWNER, connect=connect) as running:
            data = engine._api.inspect_container(running.container)
            assert [(one["Type"], one["Name"]) for one in data["Mounts"]] == [("volume", volume)]
            assert f"--port={running.grpc.rpartition(':')[2]}" in data["Config"]["Cmd"]
            assert running.grpc.startswith("127.0.0.1:")
    finally:
        engine._api.remove_volume(volume, force=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "absent-network"}, "network absent-network not found"),
        ({"user": "absent-user"}, "absent-user"),
        ({"limits": Limits(cpus=100000)}, "CPUs"),
    ],
)
def test_what_docker_refuses(light_image: str, options: dict[str, object], words: str) -> None:
    settings = {"image": light_image, "model": OneModel(name="m"), **options}
    with pytest.raises(TFSDeployError) as caught:
        ModelServerContainer(ServerOptions(**settings), OWNER, connect=connect).start()
    assert words in caught.value.cause
