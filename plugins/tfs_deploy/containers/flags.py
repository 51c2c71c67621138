"""Check a command line for tensorflow_model_server, which itself ignores a flag that it does not know (contract 1)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

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
