"""Check a command line for tensorflow_model_server, which itself starts on with a flag that it does not know.

The flags and their types are those of contract section 1 (TensorFlow Serving 2.20).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tfs_deploy.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class FlagType:
    """How the text behind ``--name`` must look, and what to say about it."""

    name: str
    form: re.Pattern[str]
    told: str
    most: int | None = None

    def accepts(self, text: str) -> bool:
        """Tell whether `text`, the value alone, can be read."""
        if not self.form.fullmatch(text):
            return False
        return self.most is None or -self.most - 1 <= int(text) <= self.most


_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
BOOL = FlagType("bool", re.compile("true|false"), "true or false")
INT32 = FlagType("int32", _INTEGER, "a whole number of 32 bits", 2**31 - 1)
INT64 = FlagType("int64", _INTEGER, "a whole number of 64 bits", 2**63 - 1)
FLOAT = FlagType("float", re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII), "a number")
STRING = FlagType("string", re.compile(r".*", re.DOTALL), "a text")

_NAMES: Mapping[FlagType, str] = {
    BOOL: "enable_grpc_healthcheck_service rest_api_enable_cors_support allow_version_labels_for_unavailable_models "
    "flush_filesystem_caches enable_model_warmup enable_signature_method_name_check enable_batching "
    "enable_per_model_batching_parameters use_alts_credentials enable_serialization_as_tensor_content "
    "remove_unused_fields_from_bundle_metagraph prefer_tflite_model xla_cpu_compilation_enabled "
    "xla_gpu_compilation_enabled enable_profiler skip_initialize_tpu version",
    INT32: "port grpc_max_threads rest_api_port rest_api_num_threads rest_api_timeout_in_ms "
    "model_config_file_poll_wait_seconds file_system_poll_wait_seconds max_num_load_retries num_load_threads "
    "num_unload_threads num_request_iterations_for_warmup num_tflite_pools num_tflite_interpreters_per_pool",
    INT64: "load_retry_interval_micros tensorflow_session_parallelism tensorflow_intra_op_parallelism "
    "tensorflow_inter_op_parallelism",
    FLOAT: "per_process_gpu_memory_fraction",
    STRING: "grpc_socket_path grpc_channel_arguments model_name model_base_path model_config_file saved_model_tags "
    "batching_parameters_file monitoring_config_file ssl_config_file platform_config_file "
    "tensorflow_session_config_file mixed_precision thread_pool_factory_config_file",
}
FLAGS: Mapping[str, FlagType] = {name: kind for kind, names in _NAMES.items() for name in names.split()}


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
    kind = FLAGS.get(name)
    if kind is None:
        raise InvalidInput(
            f"tensorflow_model_server has no flag --{name}, and would start without it.", _did_you_mean(name)
        )
    if not equals and kind is not BOOL:
        raise InvalidInput(f"The flag --{name} has no value.", f"Write --{name}=VALUE, as one argument.")
    text = value if equals else "true"
    if not kind.accepts(text):
        raise InvalidInput(f"The flag --{name} is given {text!r}, which is not {kind.told}.", "Correct the value.")
    return name, text


def _did_you_mean(name: str) -> str:
    """Return what to do about an unknown flag: the likely ones by letters, or by words in another order."""
    lowered = name.lower().replace("-", "_")
    switched_off = lowered.removeprefix("no").lstrip("_")
    if lowered.startswith("no") and FLAGS.get(switched_off) is BOOL:
        return f"Write --{switched_off}=false."
    close = difflib.get_close_matches(lowered, FLAGS, n=1, cutoff=0.7)
    words = set(lowered.split("_"))
    close = close or [
        flag for flag in sorted(FLAGS, key=lambda flag: -_alike(words, flag)) if _alike(words, flag) >= 0.5
    ]
    return f"Did you mean --{close[0]}?" if close else "See `tensorflow_model_server --help`."


def _alike(words: set[str], flag: str) -> float:
    """Return the share of words that `words` and the name `flag` have in common."""
    own = set(flag.split("_"))
    return len(words & own) / len(words | own)


def _conflicts(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what the server ends on, hangs on or ignores, although each flag alone is right (contract section 1)."""
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
    yield from _bad_path(values.get("model_base_path", ""))


def _bad_path(path: str) -> Iterator[tuple[str, str]]:
    scheme = urlsplit(path).scheme
    if scheme and scheme != "gs":
        yield (
            f"The base path {path!r} begins with {scheme}://, which TF Serving cannot read.",
            "Give a directory that a sync agent or a shared disk fills.",
        )
    if path and not scheme and not path.startswith("/"):
        yield f"The base path {path!r} is relative, which TF Serving refuses.", "Give an absolute path."
