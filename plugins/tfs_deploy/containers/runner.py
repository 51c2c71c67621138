"""A throw-away model server in a container, by the protocol of `tfs_deploy.serving.runner`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import msgspec

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.containers.docker_engine import connect as connect_to_docker
from tfs_deploy.containers.engine import Mount
from tfs_deploy.containers.model_server import Connect, ModelFiles, ModelServerContainer
from tfs_deploy.containers.options import MODELS, OneModel, RestartPolicy, ServerOptions, check_image
from tfs_deploy.containers.ownership import Owner, Process, Purpose, reap
from tfs_deploy.errors import InvalidInput

# No validation takes a day; an older container is a leftover on any machine.
_MAX_AGE_SECONDS = 24 * 3600


class Delivery(str, Enum):
    """How the model gets into the container: `mount` needs an engine that sees the directory, `copy` works anywhere."""

    MOUNT = "mount"
    COPY = "copy"


def throw_away_owner(clock: Clock, *, dag: str = "", run: str = "", task: str = "") -> Owner:
    """Return the owner of a container that ends with this process."""
    until = int(clock.now().timestamp()) + _MAX_AGE_SECONDS
    return Owner(Purpose.THROW_AWAY, Process.current(), dag, run, task, until)


class ContainerRunner:
    """Serve one SavedModel directory in a container of `options.image`, after leftovers are removed.

    :param options: image, limits, GPUs, network and the like, without a model.
    :param owner: the owner of the container; None: this process.
    :param on_start: called with each container before it starts, so that a caller can stop it.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        delivery: Delivery = Delivery.MOUNT,
        connect: Connect = connect_to_docker,
        clock: Clock | None = None,
        owner: Owner | None = None,
        start_seconds: float = 120.0,
        on_start: Callable[[ModelServerContainer], None] | None = None,
    ) -> None:
        if options.model or options.model_root or options.files.model_config:
            raise InvalidInput(
                "A throw-away server serves the directory that is validated, but its options name a model.",
                "Leave model, model_root and files.model_config out.",
            )
        self.options = options
        self._delivery = delivery
        self._connect = connect
        self._clock = clock or SystemClock()
        self._owner = owner
        self._start_seconds = start_seconds
        self._on_start = on_start

    @contextmanager
    def serve(self, directory: Path, model: str, version: int) -> Iterator[str]:
        """Start a server and yield its host:port; it does not retry a load, so a broken model fails at once.

        Raises ServerDied or ServerKilled when the server ends before it serves or in the block, also if the block
        raises, and the errors of `ModelServerContainer.start`.
        """
        self._reap()
        container = self._container(directory.resolve(), model, version)
        if self._on_start is not None:
            self._on_start(container)
        with container as running:
            try:
                yield running.grpc
            except Exception:
                # An RPC fails when the server dies; the reason of its death is the better error.
                container.require_running()
                raise
            container.require_running()

    def _container(self, directory: Path, model: str, version: int) -> ModelServerContainer:
        target = f"{MODELS}/{model}/{version}"
        mounted = self._delivery is Delivery.MOUNT
        options = msgspec.structs.replace(
            self.options,
            model=OneModel(name=model),
            loading=msgspec.structs.replace(self.options.loading, retries=0),
            restart=RestartPolicy(),
            # A mounted directory may be readable for this user only.
            user=self.options.user or (f"{os.getuid()}:{os.getgid()}" if mounted else ""),
        )
        model_files = (
            ModelFiles(mounts=(Mount(str(directory), target),))
            if mounted
            else ModelFiles(copies={target: str(directory)})
        )
        return ModelServerContainer(
            options,
            self._owner or throw_away_owner(self._clock),
            connect=self._connect,
            clock=self._clock,
            start_seconds=self._start_seconds,
            model_files=model_files,
        )

    def _reap(self) -> None:
        engine = self._connect()
        try:
            reap(engine, clock=self._clock)
        finally:
            engine.close()


def runners_for(
    images: Sequence[str],
    options: ServerOptions,
    *,
    delivery: Delivery = Delivery.MOUNT,
    connect: Connect = connect_to_docker,
    clock: Clock | None = None,
    owner: Owner | None = None,
    on_start: Callable[[ModelServerContainer], None] | None = None,
) -> dict[str, ContainerRunner]:
    """Return a runner per image, in order, otherwise equal; raise InvalidInput for no image."""
    if not images:
        raise InvalidInput("No image is named.", "Name at least one, e.g. the one that is in production.")
    return {
        image: ContainerRunner(
            msgspec.structs.replace(options, image=check_image(image)),
            delivery=delivery,
            connect=connect,
            clock=clock,
            owner=owner,
            on_start=on_start,
        )
        for image in images
    }
