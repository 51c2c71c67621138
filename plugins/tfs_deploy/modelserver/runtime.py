"""TensorFlow's runtime: imported once, in the background, with what must be set before the import.

The import takes 4 to 5 s on two cores and holds the interpreter for at most about 0.5 s at a stretch (measured with
TensorFlow 2.21), so the ports of a server without models open at once and its RPCs are answered meanwhile; only loads
wait for it.
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
# request gets INVALID_ARGUMENT. Not a default but a must, so an inherited setting is overwritten.
_REQUIRED = {"TF_ENABLE_ONEDNN_OPTS": "0"}
_DEFAULTS = {"TF_CPP_MIN_LOG_LEVEL": "2"}

_lock = threading.Lock()
_tensorflow: Future[ModuleType] | None = None
_hooks: list[Callable[[], None]] = []


def start_import() -> Future[ModuleType]:
    """Begin to import TensorFlow if nobody has yet; return the future module."""
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
    """Return the module, when it is there."""
    return start_import().result()


def when_imported(hook: Callable[[], None]) -> None:
    """Call `hook` after the import and before anybody can use the module; nothing happens if that is too late."""
    with _lock:
        _hooks.append(hook)


def after_fork() -> None:
    """Make the module usable in a child that was forked by a hook: locks of that moment stay locked there."""
    global _lock, _tensorflow
    _lock = threading.Lock()
    _tensorflow = Future()
    _tensorflow.set_result(sys.modules["tensorflow"])


def _import(future: Future[ModuleType]) -> None:
    begun = time.monotonic()
    try:
        import tensorflow as module

        # Imported here, once, because the import lock is held and the session needs it at the first load.
        import tensorflow.python.client.pywrap_tf_session
    except Exception as error:  # whatever stops the import is told to each load
        logger.exception("TensorFlow cannot be imported")
        future.set_exception(error)
        return
    logger.info("TensorFlow %s imported in %.1f s", module.__version__, time.monotonic() - begun)
    # The import leaves a million objects that stay; a full collection would hold up requests by 0.25 s for them.
    gc.freeze()
    with _lock:
        hooks = tuple(_hooks)
    for hook in hooks:
        try:
            hook()
        except Exception:  # TensorFlow is there nonetheless
            logger.exception("A hook of TensorFlow's import failed")
    future.set_result(module)


logger = logging.getLogger(__name__)

# `tensorflow::DisableXlaCompilation()` of `tensorflow/compiler/jit/flags.h`.
_DISABLE_XLA = "_ZN10tensorflow21DisableXlaCompilationEv"
_TENSORFLOW_LIBRARY = "libtensorflow_cc.so.2"


def disable_xla() -> None:
    """Let every compilation fail from now on; TensorFlow must be imported."""
    library = Path(str(sys.modules["tensorflow"].__file__)).with_name(_TENSORFLOW_LIBRARY)
    try:
        # Loaded already: this finds it again, and loads no second one.
        getattr(ctypes.CDLL(str(library)), _DISABLE_XLA)()
    except (OSError, AttributeError) as error:
        logger.warning("Functions with jit_compile=True are compiled here, and fail in TF Serving: %s", error)
