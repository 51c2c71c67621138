"""The command line: every flag of tensorflow_model_server 2.20, parsed as TensorFlow parses flags (contract 1).

``--name=value``; for booleans ``--name``, ``--name=true`` and ``--name=false``, and nothing else that begins with
``--name`` (``--enable_batchings`` is a malformed value). There is no ``--noname``, and ``--name value`` is two unknown
arguments. A malformed value, or ``--help``, ends the program with the usage; what is no flag is only printed, and the
server starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_INT32 = (-(2**31), 2**31 - 1)
_INT64 = (-(2**63), 2**63 - 1)
_CPUS = os.cpu_count() or 1
# What C's scanf takes for %d and %f, with nothing behind it.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+", re.ASCII)
_FLOAT = re.compile(
    r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf|nan)", re.ASCII
)

Value = bool | int | float | str


class MalformedFlag(Exception):
    """A flag's value cannot be read."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(f"Couldn't interpret value {text} for flag {name}.")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; `served` tells whether it has a meaning here, `bounds` an int32 from an int64."""

    name: str
    default: Value
    served: bool
    usage: str
    bounds: tuple[int, int] = _INT32

    def parse(self, text: str) -> Value:
        """Return the value that `text`, all that stands behind the name, stands for; raise MalformedFlag."""
        if isinstance(self.default, bool):
            if text not in ("", "=true", "=false"):
                raise MalformedFlag(text, self.name)
            return text != "=false"
        text = text[1:]
        if isinstance(self.default, str):
            return text
        if isinstance(self.default, float):
            if not _FLOAT.fullmatch(text):
                raise MalformedFlag(text, self.name)
            return float(text)
        if not _INTEGER.fullmatch(text) or not self.bounds[0] <= int(text) <= self.bounds[1]:
            raise MalformedFlag(text, self.name)
        return int(text)


_Y, _N = True, False

FLAGS: tuple[Flag, ...] = (
    Flag("port", 8500, _Y, "TCP port of gRPC, bound to 0.0.0.0; 0 disables it"),
    Flag("grpc_socket_path", "", _Y, "Unix socket on which gRPC listens too"),
    Flag("rest_api_port", 0, _Y, "port of the REST API; 0 disables it"),
    Flag("rest_api_num_threads", 4 * _CPUS, _Y, "threads of the REST API"),
    Flag("rest_api_timeout_in_ms", 30000, _Y, "time a REST call may take, milliseconds"),
    Flag("rest_api_enable_cors_support", False, _Y, "send CORS headers"),
    Flag("enable_batching", False, _Y, "join concurrent requests into batches"),
    Flag("allow_version_labels_for_unavailable_models", False, _Y,
         "let an unassigned label name a version that is not available"),
    Flag("batching_parameters_file", "", _Y, "text BatchingParameters"),
    Flag("enable_per_model_batching_parameters", False, _Y, "read batching_params.pbtxt from each version"),
    Flag("model_config_file", "", _Y, "text ModelServerConfig; --model_name and --model_base_path are ignored then"),
    Flag("model_config_file_poll_wait_seconds", 0, _Y, "period of reading the config file again; 0: never"),
    Flag("model_name", "default", _Y, "name of the one model"),
    Flag("model_base_path", "", _Y, "directory that holds the version directories of the one model"),
    Flag("num_load_threads", 0, _Y, "threads that load versions; 0: the manager's own"),
    Flag("num_unload_threads", 0, _Y, "threads that unload versions; 0: the manager's own"),
    Flag("max_num_load_retries", 5, _Y, "how often a failed load is tried again"),
    Flag("load_retry_interval_micros", 60_000_000, _Y, "pause before a load is tried again, microseconds", _INT64),
    Flag("file_system_poll_wait_seconds", 1, _Y, "period of looking for versions; 0: once; negative: never"),
    Flag("flush_filesystem_caches", True, _N, "drop file system caches after loads"),
    Flag("tensorflow_session_parallelism", 0, _Y, "threads within and between operations", _INT64),
    Flag("tensorflow_intra_op_parallelism", 0, _Y, "threads within operations", _INT64),
    Flag("tensorflow_inter_op_parallelism", 0, _Y, "threads between operations", _INT64),
    Flag("tensorflow_session_config_file", "", _Y, "text ConfigProto of every session"),
    Flag("ssl_config_file", "", _Y, "text SSLConfig for gRPC"),
    Flag("use_alts_credentials", False, _N, "use Google ALTS"),
    Flag("platform_config_file", "", _N, "text PlatformConfigMap"),
    Flag("per_process_gpu_memory_fraction", 0.0, _Y, "share of the GPU memory"),
    Flag("saved_model_tags", "serve", _Y, "comma-separated tags; equal to the MetaGraph's"),
    Flag("grpc_channel_arguments", "", _Y, "comma-separated name=value arguments of the gRPC server"),
    Flag("grpc_max_threads", 4 * _CPUS, _Y, "threads that answer gRPC"),
    Flag("enable_grpc_healthcheck_service", False, _Y, "serve grpc.health.v1.Health"),
    Flag("enable_model_warmup", True, _Y, "replay the warm-up requests of a version inside its load"),
    Flag("num_request_iterations_for_warmup", 0, _Y, "how often each warm-up request is replayed; 0: once"),
    Flag("version", False, _Y, "print the versions and exit"),
    Flag("monitoring_config_file", "", _Y, "text MonitoringConfig"),
    Flag("remove_unused_fields_from_bundle_metagraph", True, _N, "keep only the signatures of a loaded MetaGraph"),
    Flag("prefer_tflite_model", False, _N, "load model.tflite where there is one"),
    Flag("num_tflite_pools", _CPUS, _N, "TFLite pools"),
    Flag("num_tflite_interpreters_per_pool", 1, _N, "TFLite interpreters"),
    Flag("enable_signature_method_name_check", False, _Y, "enforce SignatureDef.method_name"),
    Flag("xla_cpu_compilation_enabled", False, _Y, "let XLA compile what asks for it, on CPUs"),
    Flag("xla_gpu_compilation_enabled", False, _Y, "let XLA compile what asks for it, on GPUs"),
    Flag("enable_profiler", True, _N, "serve the profiler"),
    Flag("thread_pool_factory_config_file", "", _N, "text ThreadPoolConfig"),
    Flag("mixed_precision", "", _N, "'bfloat16' for mixed precision"),
    Flag("skip_initialize_tpu", False, _N, "leave TPUs uninitialized"),
    Flag("enable_serialization_as_tensor_content", False, _Y, "answer Predict with tensor_content"),
)  # fmt: skip
_BY_NAME = {flag.name: flag for flag in FLAGS}
_HELP = "--help"


@dataclass(frozen=True, slots=True)
class Flags:
    """The values of all flags; `given` are those on the command line, `unknown` is what is no flag."""

    values: dict[str, Value]
    given: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = field(default=())

    def text(self, name: str) -> str:
        """Return the value of a string flag."""
        return str(self.values[name])

    def number(self, name: str) -> int:
        """Return the value of an integer flag."""
        return int(self.values[name])

    def switch(self, name: str) -> bool:
        """Return the value of a boolean flag."""
        return bool(self.values[name])

    @property
    def asks_for_help(self) -> bool:
        """Tell whether the first argument that is no flag is ``--help``."""
        return self.unknown[:1] == (_HELP,)

    def without_effect(self) -> tuple[str, ...]:
        """Return the flags that were given and do nothing here."""
        return tuple(sorted(name for name in self.given if not _BY_NAME[name].served))


def parse(arguments: Sequence[str]) -> Flags:
    """Return the flags in `arguments`, the last of each name; raise MalformedFlag."""
    values: dict[str, Value] = {flag.name: flag.default for flag in FLAGS}
    given: set[str] = set()
    unknown: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            unknown.extend(arguments[at:])
            break
        flag = _flag_of(argument)
        if flag is None:
            unknown.append(argument)
            continue
        values[flag.name] = flag.parse(argument[2 + len(flag.name) :])
        given.add(flag.name)
    return Flags(values, frozenset(given), tuple(unknown))


def _flag_of(argument: str) -> Flag | None:
    """Return the flag that `argument` is for: of a boolean only the beginning must be its name."""
    if not argument.startswith("--"):
        return None
    name, equals, _ = argument[2:].partition("=")
    if equals and name in _BY_NAME:
        return _BY_NAME[name]
    return next((flag for flag in FLAGS if isinstance(flag.default, bool) and name.startswith(flag.name)), None)


def usage(program: str) -> str:
    """Return the text that lists every flag."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in FLAGS:
        kind = "string" if isinstance(flag.default, str) else type(flag.default).__name__
        shown = str(flag.default).lower() if isinstance(flag.default, bool) else repr(flag.default)
        note = "" if flag.served else " (has no meaning in this model server)"
        lines.append(f"\t--{flag.name}={shown:<24}\t{kind}\t{flag.usage}{note}")
    return "\n".join(lines) + "\n"
