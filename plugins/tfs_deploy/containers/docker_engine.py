"""The Docker engine, through the docker SDK (extra `docker`); no other file imports it."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tfs_deploy.containers.engine import ContainerSpec, ContainerState, ListedContainer, engine_error
from tfs_deploy.containers.options import Gpus
from tfs_deploy.errors import MissingExtra, NotFound, TFSDeployError, Unreachable

# For one call. A pull may take longer: the engine reports progress all the time.
_CALL_SECONDS = 60
# Docker's default for a container without a StopTimeout.
_STOP_SECONDS = 10


def connect(address: str = "", *, seconds: int = _CALL_SECONDS) -> DockerEngine:
    """Connect to the engine at `address` (empty: ``DOCKER_HOST`` and the other variables of the docker client).

    Raises MissingExtra without the docker SDK, Unreachable when no engine answers there.
    """
    try:
        import docker
    except ImportError as error:
        raise MissingExtra("docker", "docker") from error
    address = address or os.environ.get("DOCKER_HOST", "") or "unix:///var/run/docker.sock"
    with _translate_errors(address):
        environment = {**os.environ, "DOCKER_HOST": address}
        client = docker.from_env(timeout=seconds, environment=environment)
    try:
        with _translate_errors(address):
            client.ping()
    except TFSDeployError:
        client.close()
        raise
    return DockerEngine(client, address)


@contextmanager
def _translate_errors(address: str, subject: str = "") -> Iterator[None]:
    """Raise our errors for those of the SDK; `subject` names the image or container."""
    import requests
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise engine_error(
            error.status_code or 0, str(error.explanation or error), address=address, subject=subject
        ) from error
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        raise Unreachable(
            f"The container engine at {address} does not answer: {_system_error_text(error)}.",
            "Start it (dockerd), name another one in DOCKER_HOST, or check that this user may use its socket.",
        ) from error


def _system_error_text(error: BaseException) -> str:
    """Return the operating system's message, which the SDK wraps three times."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.strerror:
            return current.strerror
        for part in current.args:
            inner = part if isinstance(part, BaseException) else getattr(part, "reason", None)
            if isinstance(inner, OSError) and inner.strerror:
                return inner.strerror
        current = current.__cause__ or current.__context__
    return " ".join(str(error).split())


class DockerEngine:
    """A ContainerEngine on the docker SDK's low-level client."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._api = client.api
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    @property
    def local(self) -> bool:
        return urlsplit(self._address).scheme in ("unix", "http+unix", "npipe")

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.local else (urlsplit(self._address).hostname or "127.0.0.1")

    def require_image(self, image: str) -> None:
        try:
            with _translate_errors(self._address, image):
                self._api.inspect_image(image)
            return
        except NotFound:
            pass
        with _translate_errors(self._address, image):
            self._client.images.pull(*_split_reference(image))

    def create(self, spec: ContainerSpec) -> str:
        with _translate_errors(self._address, spec.image):
            answer = self._api.create_container(
                spec.image,
                command=list(spec.arguments),
                environment=dict(spec.environment),
                labels=dict(spec.labels),
                name=spec.name or None,
                user=spec.user or None,
                stop_timeout=spec.stop_seconds,
                ports=[(port.container_port, "tcp") for port in spec.ports],
                host_config=self._host_config(spec),
            )
        return str(answer["Id"])

    def _host_config(self, spec: ContainerSpec) -> Any:
        from docker.types import Mount as BoundMount

        mounts = [
            BoundMount(mount.target, mount.source, type="volume" if mount.volume else "bind", read_only=mount.read_only)
            for mount in spec.mounts
        ]
        retries = {"MaximumRetryCount": spec.restart.retries} if spec.restart.retries else {}
        return self._api.create_host_config(
            mounts=mounts,
            port_bindings={port.container_port: (port.address, port.port) for port in spec.ports},
            device_requests=_device_requests(spec.gpus),
            mem_limit=spec.limits.memory_bytes() or None,
            nano_cpus=int(spec.limits.cpus * 1e9) or None,
            network_mode=spec.network or None,
            restart_policy={"Name": spec.restart.policy.value, **retries},
            # TF Serving's entry point ignores SIGTERM as process 1 (contract 2).
            init=True,
        )

    def copy_in(self, container: str, files: Mapping[str, bytes], directories: Mapping[str, str]) -> None:
        # On disk: a model may be larger than the memory.
        with tempfile.TemporaryFile() as sink:
            with tarfile.open(fileobj=sink, mode="w") as archive:
                for path, body in files.items():
                    _add_file(archive, path, body)
                for path, directory in directories.items():
                    archive.add(directory, _relative(path), filter=_readable)
            sink.seek(0)
            with _translate_errors(self._address, container):
                self._api.put_archive(container, "/", sink)

    def start(self, container: str) -> None:
        with _translate_errors(self._address, container):
            self._api.start(container)

    def inspect(self, container: str) -> ContainerState:
        with _translate_errors(self._address, container):
            data = self._api.inspect_container(container)
        state = data["State"]
        bound = data["NetworkSettings"].get("Ports") or {}
        ports = {int(name.partition("/")[0]): int(hosts[0]["HostPort"]) for name, hosts in bound.items() if hosts}
        return ContainerState(
            running=bool(state["Running"]) and not state.get("Restarting", False),
            started=state["Status"] != "created",
            exit_code=int(state["ExitCode"]),
            killed_for_memory=bool(state.get("OOMKilled")),
            ports=ports,
            restarts=int(data.get("RestartCount", 0)),
        )

    def log(self, container: str, *, lines: int) -> str:
        try:
            with _translate_errors(self._address, container):
                return bytes(self._api.logs(container, tail=lines)).decode("utf-8", "replace")
        except NotFound:
            return ""

    def stop(self, container: str) -> None:
        def stop() -> None:
            # Repeated here, because the client waits for as long.
            seconds = self._api.inspect_container(container)["Config"].get("StopTimeout")
            self._api.stop(container, timeout=_STOP_SECONDS if seconds is None else seconds)

        self._ignore_missing(stop, container)

    def remove(self, container: str) -> None:
        self._ignore_missing(lambda: self._api.remove_container(container, v=True, force=True), container)

    def _ignore_missing(self, call: Any, container: str) -> None:
        from docker.errors import APIError

        try:
            with _translate_errors(self._address, container):
                call()
        except NotFound:
            return
        except TFSDeployError as error:
            # Another client is removing it already.
            cause = error.__cause__
            if not (isinstance(cause, APIError) and cause.status_code == 409 and "already in progress" in str(cause)):
                raise

    def find(self, labels: Mapping[str, str]) -> tuple[ListedContainer, ...]:
        wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
        with _translate_errors(self._address):
            listed = self._api.containers(all=True, filters={"label": wanted})
        return tuple(
            ListedContainer(
                item["Id"],
                item["Names"][0].lstrip("/") if item["Names"] else "",
                item["State"] == "running",
                item["Labels"],
            )
            for item in listed
        )

    def close(self) -> None:
        self._client.close()


def _split_reference(image: str) -> tuple[str, str | None]:
    """Return repository and tag; a digest stays with the repository. Without a tag the SDK would pull all tags."""
    name, at, _ = image.partition("@")
    if at:
        return image, None
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def _device_requests(gpus: Gpus | None) -> list[Any] | None:
    if gpus is None:
        return None
    from docker.types import DeviceRequest

    count = None if gpus.ids else (-1 if gpus.all else gpus.count)
    return [DeviceRequest(count=count, device_ids=list(gpus.ids) or None, capabilities=[["gpu"]])]


def _relative(path: str) -> str:
    return posixpath.normpath(path).lstrip("/")


def _add_file(archive: tarfile.TarFile, path: str, body: bytes) -> None:
    entry = tarfile.TarInfo(_relative(path))
    entry.size, entry.mode = len(body), 0o444
    archive.addfile(entry, io.BytesIO(body))


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a model readable for the server's user."""
    entry.mode |= 0o555 if entry.isdir() else 0o444
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
