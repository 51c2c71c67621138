"""The options of a model server in a container, checked when they are created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_model_name

DEFAULT_IMAGE = "tensorflow/serving:2.20.0"
MODELS = "/models"
# One host of a registry, path components, tag and digest, as Docker writes a reference.
_REFERENCE = re.compile(
    r"(?:(?:localhost|[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+|[A-Za-z0-9\-]+(?=:))(?::\d+)?/)?[a-z0-9]+(?:[._\-/]+[a-z0-9]+)*(?::\w[\w.\-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_SIZE = re.compile(r"(\d+)([bkmg]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# The minimum of Docker.
_MIN_MEMORY_BYTES = 6 << 20

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]


# Structs, not dataclasses: a misspelt key in a DAG or a file is an error.
class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of all groups of options."""


class Ports(Options, frozen=True):
    """Ports on the engine's host; None: a free port. `publish=False`: within `network` only.

    The ports are bound to `address`; empty: loopback where the engine is on this machine, else all addresses.
    """

    grpc: _Port | None = None
    rest: _Port | None = None
    address: str = ""
    publish: bool = True


class ModelRoot(Options, frozen=True):
    """A directory of the engine's host, or a volume of the engine, that the server sees as `target`."""

    directory: str = ""
    volume: str = ""
    target: str = MODELS
    read_only: bool = True

    def __post_init__(self) -> None:
        if bool(self.directory) == bool(self.volume):
            raise InvalidInput(
                f"The model root names directory {self.directory!r} and volume {self.volume!r}.",
                "Name exactly one of them.",
            )
        if self.directory:
            _require_absolute(self.directory, "model_root.directory")
        _require_absolute(self.target, "model_root.target")


class OneModel(Options, frozen=True):
    """The form ``MODEL_NAME`` and ``MODEL_BASE_PATH`` of the image: the versions lie in `base_path`/`name`."""

    name: str
    base_path: str = MODELS

    def __post_init__(self) -> None:
        check_model_name(self.name)
        _require_absolute(self.base_path, "model.base_path")


class Files(Options, frozen=True):
    """Text files of this machine that the server reads; they are copied into the container before it starts.

    `model_config` is ``--model_config_file`` (the other form: several models, labels); `batching` also switches
    batching on; `monitoring`, `tls` and `session` are ``--monitoring_config_file``, ``--ssl_config_file`` and
    ``--tensorflow_session_config_file``. A path that begins with ``container:`` is one in the container.
    """

    model_config: str = ""
    batching: str = ""
    monitoring: str = ""
    tls: str = ""
    session: str = ""


class Loading(Options, frozen=True):
    """How versions are found and loaded; None: the server's own default (contract 1)."""

    retries: _NotNegative | None = None
    retry_interval_micros: int | None = None
    load_threads: _NotNegative | None = None
    unload_threads: _NotNegative | None = None
    poll_seconds: _NotNegative | None = None
    labels_for_unavailable: bool = False


class Parallelism(Options, frozen=True):
    """Threads of TensorFlow sessions: `session` for both kinds, or `intra_op` and `inter_op`; None: all CPUs."""

    session: Annotated[int, msgspec.Meta(ge=1)] | None = None
    intra_op: Annotated[int, msgspec.Meta(ge=1)] | None = None
    inter_op: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.session and (self.intra_op or self.inter_op):
            raise InvalidInput(
                "parallelism names session together with intra_op or inter_op, and the server ignores the first then.",
                "Name session alone, or the other two.",
            )


class Gpus(Options, frozen=True):
    """Which GPUs the container gets: `all`, a `count`, or some `ids`; exactly one of them."""

    all: bool = False
    count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum((self.all, self.count is not None, bool(self.ids))) != 1:
            raise InvalidInput("gpus must name all, a count, or ids.", "Name exactly one of them, or leave gpus out.")


class Limits(Options, frozen=True):
    """`memory` in bytes or as ``512m``, ``8g``; `cpus` as a number such as 1.5; empty: no limit."""

    memory: str | int = ""
    cpus: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0

    def __post_init__(self) -> None:
        if self.memory != "" and self.memory_bytes() < _MIN_MEMORY_BYTES:
            raise InvalidInput(f"The memory limit {self.memory!r} is below 6 MiB.", "Raise it to 6 MiB or more.")

    def memory_bytes(self) -> int:
        """Return the limit in bytes, 0 for none."""
        if self.memory == "":
            return 0
        match = _SIZE.fullmatch(str(self.memory))
        if match is None:
            raise InvalidInput(f"The memory limit {self.memory!r} is not a size.", "Write 512m, 8g or a number.")
        return int(match[1]) * _UNITS[match[2].lower()]


class Restart(str, Enum):
    """What the engine does when the server ends by itself."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class RestartPolicy(Options, frozen=True):
    """A `policy`, and with ``on-failure`` how often (`retries`, 0: without end)."""

    policy: Restart = Restart.NO
    retries: _NotNegative = 0

    def __post_init__(self) -> None:
        if self.retries and self.policy is not Restart.ON_FAILURE:
            raise InvalidInput(
                f"restart.retries is {self.retries} with policy {self.policy.value!r}.",
                "It counts for on-failure only.",
            )


class ServerOptions(Options, frozen=True):
    """One model server in one container.

    `image`: name with tag or digest. `name`: the container's; empty: one of its own. `network` is a network of the
    engine, or ``host``. `user` is ``uid[:gid]``.
    `gpu_memory_fraction` is ``--per_process_gpu_memory_fraction``. `arguments` are further flags, each one checked.
    `stop_seconds`: how long requests under way have when it is stopped.
    """

    image: str = DEFAULT_IMAGE
    name: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.\-]{0,126})?$")] = ""
    model: OneModel | None = None
    model_root: ModelRoot | None = None
    ports: Ports = Ports()
    files: Files = Files()
    loading: Loading = Loading()
    parallelism: Parallelism = Parallelism()
    gpu_memory_fraction: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] | None = None
    gpus: Gpus | None = None
    limits: Limits = Limits()
    environment: dict[str, str] = {}
    network: str = ""
    user: str = ""
    restart: RestartPolicy = RestartPolicy()
    arguments: tuple[str, ...] = ()
    stop_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 10

    def __post_init__(self) -> None:
        check_image(self.image)
        if self.model is not None and self.files.model_config:
            raise InvalidInput(
                f"The options name model {self.model.name!r} and files.model_config, and the server ignores the first.",
                "Take model for one model, or files.model_config for several models and labels.",
            )


def options_from(data: Mapping[str, Any] | ServerOptions) -> ServerOptions:
    """Convert plain data, such as rendered templates of a DAG, to options; raise InvalidInput naming the key."""
    if isinstance(data, ServerOptions):
        return data
    try:
        return msgspec.convert(data, type=ServerOptions, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InvalidInput):
            raise error.__cause__ from None
        known = ", ".join(ServerOptions.__struct_fields__)
        raise InvalidInput(f"The options of the model server are invalid: {error}.", f"Known keys: {known}.") from error


def check_image(image: str) -> str:
    """Return `image` if it is a reference that an engine accepts; raise InvalidInput otherwise."""
    if not isinstance(image, str) or len(image) > 512 or not _REFERENCE.fullmatch(image):
        raise InvalidInput(f"The image {image!r} is not a reference.", "Write NAME:TAG or NAME@sha256:DIGEST.")
    return image


def _require_absolute(path: str, option: str) -> None:
    if not PurePosixPath(path).is_absolute():
        raise InvalidInput(f"{option} is {path!r}, which is relative.", "Give an absolute path.")
