"""Switches XLA's compiler off, as TF Serving does where neither --xla_cpu_compilation_enabled nor the GPU's is given.

A function that was exported with ``jit_compile=True`` then ends with INTERNAL ``XLA compilation disabled`` at its first
use (contract 1). Python has no switch for that; the one in C++ is a function of TensorFlow's own library.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

# `tensorflow::DisableXlaCompilation()` of `tensorflow/compiler/jit/flags.h`.
_DISABLE = "_ZN10tensorflow21DisableXlaCompilationEv"
_LIBRARY = "libtensorflow_cc.so.2"


def disable() -> None:
    """Let every compilation fail from now on; TensorFlow must be imported."""
    library = Path(str(sys.modules["tensorflow"].__file__)).with_name(_LIBRARY)
    try:
        # Loaded already: this finds it again, and loads no second one.
        getattr(ctypes.CDLL(str(library)), _DISABLE)()
    except (OSError, AttributeError) as error:
        logger.warning("Functions with jit_compile=True are compiled here, and fail in TF Serving: %s", error)
