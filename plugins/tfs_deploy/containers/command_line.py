"""The command line of a container: arguments, environment and copied files, from the options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.containers.flags import lint
from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.errors import InvalidInput

# In the container, as the image's entry point sets them (contract 2).
GRPC_PORT = 8500
REST_PORT = 8501
# Where copied files lie in the container.
CONFIG_FOLDER = "/etc/tfs_deploy"
_CONTAINER_PREFIX = "container:"
# Set from the options; as a further argument they would contradict them.
_RESERVED_FLAGS = {
    "port": "ports.grpc",
    "rest_api_port": "ports.rest",
    "model_name": "model.name",
    "model_base_path": "model.base_path",
    "model_config_file": "files.model_config",
    "version": "no such flag: the server would print its version and end",
}
_FILE_FLAGS = {
    "model_config": "model_config_file",
    "batching": "batching_parameters_file",
    "monitoring": "monitoring_config_file",
    "tls": "ssl_config_file",
    "session": "tensorflow_session_config_file",
}
# Text formats; a larger file is a mistake in the path.
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Arguments and environment of a container, and the contents of files by path in the container."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    files: dict[str, bytes]


def command_line(options: ServerOptions, *, host_ports: tuple[int, int] | None = None) -> CommandLine:
    """Return the command line of `options`; `host_ports` (gRPC, REST) where the container has the host's network.

    Raises InvalidInput for a flag that the server would ignore or end on, and for a file that cannot be read.
    """
    files = dict(_file_contents(options))
    arguments = (*_port_flags(host_ports), *_file_flags(options), *_option_flags(options), *options.arguments)
    for argument in options.arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if name in _RESERVED_FLAGS:
            raise InvalidInput(f"The flag --{name} is among the further arguments.", f"Use {_RESERVED_FLAGS[name]}.")
    lint(arguments)
    environment = dict(options.environment)
    if options.model is not None:
        environment |= {"MODEL_NAME": options.model.name, "MODEL_BASE_PATH": options.model.base_path}
        lint([f"--model_base_path={options.model.base_path}"])
    return CommandLine(arguments, environment, files)


def _port_flags(host_ports: tuple[int, int] | None) -> Iterator[str]:
    # The entry point sets 8500 and 8501; the last of two equal flags counts.
    if host_ports is not None:
        yield f"--port={host_ports[0]}"
        yield f"--rest_api_port={host_ports[1]}"


def _file_flags(options: ServerOptions) -> Iterator[str]:
    if options.files.batching:
        yield "--enable_batching=true"
    for kind, flag in _FILE_FLAGS.items():
        path: str = getattr(options.files, kind)
        if path:
            inside = (
                path.removeprefix(_CONTAINER_PREFIX) if path.startswith(_CONTAINER_PREFIX) else _container_path(kind)
            )
            yield f"--{flag}={inside}"


def _file_contents(options: ServerOptions) -> Iterator[tuple[str, bytes]]:
    for kind in _FILE_FLAGS:
        path: str = getattr(options.files, kind)
        if path and not path.startswith(_CONTAINER_PREFIX):
            yield _container_path(kind), _read_file(Path(path), kind)


def _container_path(kind: str) -> str:
    return f"{CONFIG_FOLDER}/{kind}.config"


def _read_file(path: Path, kind: str) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidInput(f"files.{kind} names {path}, which is over 4 MiB.", "Check the path.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"files.{kind} names {path}, which cannot be read: {error.strerror}.",
            "Check the path, or write container:PATH for a file of the image.",
        ) from error


def _option_flags(options: ServerOptions) -> Iterator[str]:
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
