"""What needs the docker SDK and no engine: requests for GPUs, names of images, and what an engine's words mean."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tfs_deploy.containers import docker_engine
from tfs_deploy.containers.engine import NoGpu, PortTaken, engine_error
from tfs_deploy.containers.options import Gpus
from tfs_deploy.errors import InvalidInput, MissingExtra, NotFound, Permanent, Refused, TFSDeployError, Unreachable


@pytest.mark.parametrize(
    ("gpus", "count", "ids"),
    [
        (Gpus(all=True), -1, None),
        (Gpus(count=2), 2, None),
        (Gpus(ids=("0", "GPU-1")), 0, ["0", "GPU-1"]),
    ],
)
def test_requests_for_gpus(gpus: Gpus, count: int, ids: list[str] | None) -> None:
    """As ``docker run --gpus`` sends them: all is -1, and ids go without a count."""
    (request,) = docker_engine._device_requests(gpus) or []
    assert (request.count, request.device_ids or None) == (count, ids)
    assert request.capabilities == [["gpu"]]
    assert docker_engine._device_requests(None) is None


@pytest.mark.parametrize(
    ("image", "repository", "tag"),
    [
        ("serving", "serving", "latest"),
        ("tensorflow/serving:2.20.0", "tensorflow/serving", "2.20.0"),
        ("host:5000/serving", "host:5000/serving", "latest"),
        ("host:5000/serving:1", "host:5000/serving", "1"),
        ("serving@sha256:ab", "serving@sha256:ab", None),
    ],
)
def test_what_is_pulled_is_one_image(image: str, repository: str, tag: str | None) -> None:
    assert docker_engine._split_reference(image) == (repository, tag)


# As Docker 20.10 to 28 say it.
@pytest.mark.parametrize(
    ("status", "words", "kind", "told"),
    [
        (500, "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:8500 failed: port is "
         "already allocated", PortTaken, "Port 8500 is taken"),
        (500, "Error starting userland proxy: listen tcp4 127.0.0.1:8500: bind: address already in use", PortTaken,
         "Port 8500 is taken"),
        (500, "Ports are not available: exposing port TCP 0.0.0.0:8500", PortTaken, "Port 8500 is taken"),
        (500, 'could not select device driver "" with capabilities: [[gpu]]', NoGpu, "has no GPU"),
        (500, "nvidia-container-cli: device error: 7: unknown device", NoGpu, "has no GPU"),
        (400, "invalid mount config for type \"bind\": bind source path does not exist: /a/b", NotFound,
         "has no directory /a/b"),
        (404, "No such image: x:1", NotFound, "has no image it"),
        (404, "pull access denied for x, repository does not exist or may require 'docker login'", NotFound,
         "has no image it"),
        (404, "manifest for x:9 not found: manifest unknown: manifest unknown", NotFound, "has no image it"),
        (500, "Get \"https://hub.example/v2/\": dial tcp: lookup hub.example: no such host",
         Unreachable, "reaches no registry"),
        (404, "network n not found", NotFound, "network n not found"),
        (400, "Range of CPUs is from 0.01 to 2.00", InvalidInput, "Range of CPUs"),
        (409, "Conflict. The container name \"/a\" is already in use by container b", Refused, "already in use"),
        (418, "I'm a teapot", Permanent, "answered 418"),
    ],
)  # fmt: skip
def test_what_an_engine_means(status: int, words: str, kind: type[TFSDeployError], told: str) -> None:
    error = engine_error(status, words, address="unix:///socket", subject="it")
    assert type(error) is kind
    assert told in error.cause
    assert "unix:///socket" in error.cause
    assert error.remedy.endswith(".")


def test_without_the_sdk_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "docker", None)
    with pytest.raises(MissingExtra, match=r"pip install docker\."):
        docker_engine.connect()


def test_copied_models_are_readable_for_the_servers_user(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir(mode=0o700)
    (tmp_path / "m" / "weights").write_bytes(b"w")
    (tmp_path / "m" / "weights").chmod(0o600)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        docker_engine._add_file(archive, "/etc/a", b"text")
        archive.add(tmp_path / "m", "models/m/1", filter=docker_engine._readable)
    sink.seek(0)
    with tarfile.open(fileobj=sink) as archive:
        modes = {entry.name: (entry.mode & 0o555, entry.uid) for entry in archive}
    assert modes == {"etc/a": (0o444, 0), "models/m/1": (0o555, 0), "models/m/1/weights": (0o444, 0)}
