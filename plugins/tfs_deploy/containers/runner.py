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
from tfs_deploy.containers.model_server import Connect, Extra, ModelServerContainer
from tfs_deploy.containers.options import MODELS, OneModel, RestartPolicy, ServerOptions, check_image
from tfs_deploy.containers.ownership import Owner, Process, Purpose, reap
from tfs_deploy.errors import InvalidInput

# Whoever started it, and wherever: after a day nobody validates with it any more.
_LIFE_SECONDS = 24 * 3600


class Delivery(str, Enum):
    """How the model gets into the container: `mount` where the engine sees the directory, `copy` anywhere."""

    MOUNT = "mount"
    COPY = "copy"


def throw_away_owner(clock: Clock, *, dag: str = "", run: str = "", task: str = "") -> Owner:
    """Return the owner of a container that ends with this process."""
    until = int(clock.now().timestamp()) + _LIFE_SECONDS
    return Owner(Purpose.THROW_AWAY, Process.this(), dag, run, task, until)


class ContainerRunner:
    """Serve one SavedModel directory in a container of `options.image`; leftovers of dead processes are removed first.

    :param options: image, limits, GPUs, network and the like; what says where the model is must be left out.
    :param owner: for whom; None: for this process.
    :param on_start: is given each container before it starts, so that somebody else can stop it.
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
        """Start a server with no retries, so that a broken model has its verdict at once; gives host:port.

        Raises ServerDied with the server's own words when it ends: before it serves, or inside the block, whatever
        the block raises or returns then. Further: what `ModelServerContainer.start` raises.
        """
        self._reap()
        container = self._container(directory.resolve(), model, version)
        if self._on_start is not None:
            self._on_start(container)
        with container as running:
            try:
                yield running.grpc
            except Exception:
                # An RPC fails when the server dies; why it died says more.
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
            # A mounted directory may be readable for nobody but us.
            user=self.options.user or (f"{os.getuid()}:{os.getgid()}" if mounted else ""),
        )
        extra = Extra(mounts=(Mount(str(directory), target),)) if mounted else Extra(copies={target: str(directory)})
        return ModelServerContainer(
            options,
            self._owner or throw_away_owner(self._clock),
            connect=self._connect,
            clock=self._clock,
            start_seconds=self._start_seconds,
            extra=extra,
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
    """Return a runner per image, in their order, that differ in nothing else; raise InvalidInput for no image."""
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
