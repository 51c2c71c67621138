"""From options to what the image is started with: arguments, environment, and files that are copied into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.containers.flags import lint
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.errors import InvalidInput

# Inside of the container, as the image's entry point sets them (contract 2).
GRPC_PORT = 8500
REST_PORT = 8501
# Where copied files lie in the container.
CONFIG_FOLDER = "/etc/tfs_deploy"
_INSIDE = "container:"
# What the runner relies on; given by hand it would wait at the wrong place.
_OURS = {
    "port": "ports.grpc",
    "rest_api_port": "ports.rest",
    "model_name": "model.name",
    "model_base_path": "model.base_path",
    "model_config_file": "files.model_config",
    "version": "nothing: the server would print its version and end",
}
_FILE_FLAGS = {
    "model_config": "model_config_file",
    "batching": "batching_parameters_file",
    "monitoring": "monitoring_config_file",
    "tls": "ssl_config_file",
    "session": "tensorflow_session_config_file",
}
# Text formats, read whole by the server; a larger one is not what the option was meant to name.
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What follows the image's name, its environment, and per path in the container the contents of a file."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    files: dict[str, bytes]


def command_line(options: ServerOptions, *, host_ports: tuple[int, int] | None = None) -> CommandLine:
    """Return what `options` come to; `host_ports` (gRPC, REST) where the container has the host's network.

    Raises InvalidInput for a flag that the server would ignore or end on, and for a file that cannot be read.
    """
    files = dict(_copied(options))
    arguments = (*_ports(host_ports), *_files(options), *_typed(options), *options.arguments)
    for argument in options.arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if name in _OURS:
            raise InvalidInput(f"The flag --{name} is among the further arguments.", f"Use {_OURS[name]}.")
    lint(arguments)
    environment = dict(options.environment)
    if options.model is not None:
        environment |= {"MODEL_NAME": options.model.name, "MODEL_BASE_PATH": options.model.base_path}
        lint([f"--model_base_path={options.model.base_path}"])
    return CommandLine(arguments, environment, files)


def _ports(host_ports: tuple[int, int] | None) -> Iterator[str]:
    # The entry point gives 8500 and 8501; of two equal flags the last one counts.
    if host_ports is not None:
        yield f"--port={host_ports[0]}"
        yield f"--rest_api_port={host_ports[1]}"


def _files(options: ServerOptions) -> Iterator[str]:
    if options.files.batching:
        yield "--enable_batching=true"
    for kind, flag in _FILE_FLAGS.items():
        path: str = getattr(options.files, kind)
        if path:
            inside = path.removeprefix(_INSIDE) if path.startswith(_INSIDE) else _inside(kind)
            yield f"--{flag}={inside}"


def _copied(options: ServerOptions) -> Iterator[tuple[str, bytes]]:
    for kind in _FILE_FLAGS:
        path: str = getattr(options.files, kind)
        if path and not path.startswith(_INSIDE):
            yield _inside(kind), _read(Path(path), kind)


def _inside(kind: str) -> str:
    return f"{CONFIG_FOLDER}/{kind}.config"


def _read(path: Path, kind: str) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidInput(f"files.{kind} names {path}, which is over 4 MiB.", "Check the path.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"files.{kind} names {path}, which cannot be read: {error.strerror}.",
            "Check the path, or write container:PATH for a file of the image.",
        ) from error


def _typed(options: ServerOptions) -> Iterator[str]:
    loading, parallelism = options.loading, options.parallelism
    numbers = {
        "max_num_load_retries": loading.retries,
        "load_retry_interval_micros": loading.retry_interval_micros,
        "num_load_threads": loading.load_threads,
        "num_unload_threads": loading.unload_threads,
        "file_system_poll_wait_seconds": loading.poll_seconds,
        "tensorflow_session_parallelism": parallelism.session,
        "tensorflow_intra_op_parallelism": parallelism.intra_op,
        "tensorflow_inter_op_parallelism": parallelism.inter_op,
        "per_process_gpu_memory_fraction": options.gpu_memory_fraction,
    }
    yield from (f"--{name}={value}" for name, value in numbers.items() if value is not None)
    if loading.labels_for_unavailable:
        yield "--allow_version_labels_for_unavailable_models=true"
