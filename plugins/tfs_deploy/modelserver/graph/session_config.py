"""The ConfigProto of every session, from the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfs_deploy.modelserver import runtime, text_proto
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.status import invalid_argument


def check(flags: Flags) -> None:
    """Refuse what TF Serving refuses before it loads anything: thread flags that contradict, a file that is no config.

    Waits for TensorFlow's import only where there is a file, whose schema is TensorFlow's.
    """
    names = ("session", "intra_op", "inter_op")
    if all(flags.number(f"tensorflow_{name}_parallelism") > 0 for name in names):
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    if flags.text("tensorflow_session_config_file"):
        make(flags)


def make(flags: Flags) -> Any:
    """Return the ConfigProto; wait for TensorFlow's import."""
    config = _read(flags.text("tensorflow_session_config_file"))
    config.gpu_options.per_process_gpu_memory_fraction = float(flags.values["per_process_gpu_memory_fraction"])
    intra, inter = (flags.number(f"tensorflow_{name}_parallelism") for name in ("intra_op", "inter_op"))
    if intra <= 0 and inter <= 0:
        intra = inter = flags.number("tensorflow_session_parallelism")
    # Where no flag asks for a number of threads, what the file says stays.
    if intra > 0:
        config.intra_op_parallelism_threads = intra
    if inter > 0:
        config.inter_op_parallelism_threads = inter
    return config


def _read(path: str) -> Any:
    """Return the ConfigProto in the text file `path`, or an empty one without a path; raise StatusError."""
    from google.protobuf import text_format

    config = runtime.tensorflow().compat.v1.ConfigProto()
    # TF Serving's sessions spin while they wait for work. Here the same cores run the interpreter that answers the
    # requests: measured on two cores, threads that sleep cost less CPU per request and lower the 99th percentile.
    config.experimental.disable_thread_spinning = True
    if path:
        text_proto.read(path, type(config)())  # what is wrong with the file is told here
        text_format.Merge(Path(path).read_text(encoding="utf-8"), config)  # over the default, also with a false
    return config
