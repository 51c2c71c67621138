"""The command line of a container: arguments, environment and copied files, from the options.

`lint` checks flags that a user adds, because tensorflow_model_server ignores a flag that it does not know (contract 1).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.containers.options import ServerOptions
from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.config import base_path_error
from tfs_deploy.serving.flags import FLAGS, FlagType

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
# Stricter than the server, which also reads blanks before a number, inf and nan.
_FORMS: Mapping[FlagType, tuple[re.Pattern[str], str]] = {
    FlagType.BOOL: (re.compile("true|false"), "true or false"),
    FlagType.INT32: (_INTEGER, "a whole number of 32 bits"),
    FlagType.INT64: (_INTEGER, "a whole number of 64 bits"),
    FlagType.FLOAT: (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII), "a number"),
    FlagType.STRING: (re.compile(r".*", re.DOTALL), "a text"),
}


def lint(arguments: Sequence[str]) -> dict[str, str]:
    """Return the value of each flag in `arguments`, the last one where a flag is given again.

    Raises InvalidInput for what the server would ignore, misread or end on: an unknown flag (with the one that was
    probably meant), a value of another type, ``--name value``, and flags that exclude each other.
    """
    values = dict(map(_read, arguments))
    for sentence, remedy in _conflicts(values):
        raise InvalidInput(sentence, remedy)
    return values


def _read(argument: str) -> tuple[str, str]:
    name, equals, value = argument.removeprefix("--").partition("=")
    if not argument.startswith("--") or not name:
        raise InvalidInput(
            f"The model server's argument {argument!r} is no flag, and the server would only print its usage.",
            "Write --name=value, as one argument.",
        )
    flag = FLAGS.get(name)
    if flag is None:
        raise InvalidInput(
            f"tensorflow_model_server has no flag --{name}, and would start without it.", _did_you_mean(name)
        )
    if not equals and flag.type is not FlagType.BOOL:
        raise InvalidInput(f"The flag --{name} has no value.", f"Write --{name}=VALUE, as one argument.")
    text = value if equals else "true"
    form, words = _FORMS[flag.type]
    if not form.fullmatch(text) or (form is _INTEGER and not flag.type.in_range(int(text))):
        raise InvalidInput(f"The flag --{name} is given {text!r}, which is not {words}.", "Correct the value.")
    return name, text


def _did_you_mean(name: str) -> str:
    """Return what to do about an unknown flag: the likely ones by letters, or by words in another order."""
    lowered = name.lower().replace("-", "_")
    switched_off = lowered.removeprefix("no").lstrip("_")
    if lowered.startswith("no") and switched_off in FLAGS and FLAGS[switched_off].type is FlagType.BOOL:
        return f"Write --{switched_off}=false."
    close = difflib.get_close_matches(lowered, FLAGS, n=1, cutoff=0.7)
    words = set(lowered.split("_"))
    close = close or [
        name for name in sorted(FLAGS, key=lambda name: -_similarity(words, name)) if _similarity(words, name) >= 0.5
    ]
    return f"Did you mean --{close[0]}?" if close else "See `tensorflow_model_server --help`."


def _similarity(words: set[str], name: str) -> float:
    """Return the share of words that `words` and the flag `name` have in common."""
    own = set(name.split("_"))
    return len(words & own) / len(words | own)


def _conflicts(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what the server ends on, hangs on or ignores, although each flag alone is right (contract 1)."""
    given = values.keys()
    if "batching_parameters_file" in given and values.get("enable_batching", "false") != "true":
        yield "--batching_parameters_file is given without --enable_batching.", "Give both, or the server ends."
    if {"ssl_config_file"} <= given and values.get("use_alts_credentials") == "true":
        yield "--ssl_config_file and --use_alts_credentials exclude each other.", "Give one of them."
    if values.get("port") is not None and values.get("port") == values.get("rest_api_port"):
        yield f"gRPC and REST are both given port {values['port']}.", "Give them different ones, or REST is missing."
    session = int(values.get("tensorflow_session_parallelism", "0"))
    if session and {"tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"} & given:
        yield (
            "--tensorflow_session_parallelism is given with one for intra or inter operations.",
            "Give the first alone, or the other two.",
        )
    if int(values.get("file_system_poll_wait_seconds", "1")) < 0:
        yield "--file_system_poll_wait_seconds is below 0, and the server hangs at its start.", "Give 0 or more."
    if not 0.0 <= float(values.get("per_process_gpu_memory_fraction", "0")) <= 1.0:
        yield "--per_process_gpu_memory_fraction is not between 0 and 1.", "Give a share, such as 0.5."
    path = values.get("model_base_path")
    if path and (error := base_path_error(path)):
        yield error


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
