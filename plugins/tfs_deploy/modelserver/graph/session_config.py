"""The ConfigProto of every session, from the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfs_deploy.modelserver import runtime
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.status import invalid_argument, of_os_error


def check(flags: Flags) -> None:
    """Refuse the combination of thread flags that TF Serving refuses."""
    names = ("session", "intra_op", "inter_op")
    if all(flags.number(f"tensorflow_{name}_parallelism") > 0 for name in names):
        raise invalid_argument(
            "Setting tensorflow_session_parallelism together with both tensorflow_intra_op_parallelism and "
            "tensorflow_inter_op_parallelism is not allowed; choose one or two of them."
        )


def make(flags: Flags) -> Any:
    """Return the ConfigProto; wait for TensorFlow's import."""
    from google.protobuf import text_format

    config = runtime.tensorflow().compat.v1.ConfigProto()
    path = flags.text("tensorflow_session_config_file")
    if path:
        try:
            text_format.Parse(Path(path).read_text(encoding="utf-8"), config)
        except OSError as error:
            raise of_os_error(error) from error
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise invalid_argument(f"Invalid protobuf file: '{path}'") from error
    config.gpu_options.per_process_gpu_memory_fraction = float(flags.values["per_process_gpu_memory_fraction"])
    intra, inter = (flags.number(f"tensorflow_{name}_parallelism") for name in ("intra_op", "inter_op"))
    if intra <= 0 and inter <= 0:
        intra = inter = flags.number("tensorflow_session_parallelism")
    config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = max(intra, 0), max(inter, 0)
    return config
