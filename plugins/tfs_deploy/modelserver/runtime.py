"""TensorFlow's runtime: imported once, in the background, with the settings that it requires before the import.

The import takes 4 to 5 s on two cores and blocks the interpreter for at most 0.5 s at a time (measured with
TensorFlow 2.21). Meanwhile a server without models opens its ports and answers; only loads wait for the import.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

# With oneDNN, a Conv2D that gets a tensor of the wrong rank aborts the process (contract 20.1); without it the
# request gets INVALID_ARGUMENT. An inherited setting is overwritten.
_REQUIRED = {"TF_ENABLE_ONEDNN_OPTS": "0"}
_DEFAULTS = {"TF_CPP_MIN_LOG_LEVEL": "2"}

_lock = threading.Lock()
_tensorflow: Future[ModuleType] | None = None
_hooks: list[Callable[[], None]] = []


def start_import() -> Future[ModuleType]:
    """Start the import of TensorFlow unless it was started before; return the future module."""
    global _tensorflow
    with _lock:
        if _tensorflow is None:
            _tensorflow = Future()
            os.environ.update(_REQUIRED)
            for name, value in _DEFAULTS.items():
                os.environ.setdefault(name, value)
            threading.Thread(target=_import, args=(_tensorflow,), name="import-tensorflow", daemon=True).start()
        return _tensorflow


def tensorflow() -> ModuleType:
    """Wait for the import and return the module."""
    return start_import().result()


def when_imported(hook: Callable[[], None]) -> None:
    """Call `hook` after the import and before the module is handed out; a later call has no effect."""
    with _lock:
        _hooks.append(hook)


def after_fork() -> None:
    """Make the module usable in a child that a hook forked: a lock held at the fork stays locked in the child."""
    global _lock, _tensorflow
    _lock = threading.Lock()
    _tensorflow = Future()
    _tensorflow.set_result(sys.modules["tensorflow"])


def _import(future: Future[ModuleType]) -> None:
    begun = time.monotonic()
    try:
        import tensorflow as module

        # The session uses it at the first load; here it is imported under the same import lock.
        import tensorflow.python.client.pywrap_tf_session
    except Exception as error:  # each load fails with it
        logger.exception("TensorFlow cannot be imported")
        future.set_exception(error)
        return
    logger.info("TensorFlow %s imported in %.1f s", module.__version__, time.monotonic() - begun)
    # The import leaves a million permanent objects, with which a full collection would delay requests by 0.25 s.
    gc.freeze()
    with _lock:
        hooks = tuple(_hooks)
    for hook in hooks:
        try:
            hook()
        except Exception:  # TensorFlow can be used without the hook
            logger.exception("A hook of TensorFlow's import failed")
    future.set_result(module)


logger = logging.getLogger(__name__)

# `tensorflow::DisableXlaCompilation()` of `tensorflow/compiler/jit/flags.h`.
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"
_TENSORFLOW_LIBRARY = "libtensorflow_cc.so.2"


def disable_xla() -> None:
    """Let every XLA compilation fail, as TF Serving does without --xla_cpu_compilation_enabled or the GPU's flag.

    A function with ``jit_compile=True`` then ends with INTERNAL ``XLA compilation disabled`` (contract 1). Python has
    no switch for it, so the C++ function of TensorFlow's own library is called; TensorFlow must be imported.
    """
    library = Path(str(sys.modules["tensorflow"].__file__)).with_name(_TENSORFLOW_LIBRARY)
    try:
        # The library is loaded already; this returns a handle to it.
        getattr(ctypes.CDLL(str(library)), _DISABLE_XLA)()
    except (OSError, AttributeError) as error:
        logger.warning("Functions with jit_compile=True are compiled here, and fail in TF Serving: %s", error)
