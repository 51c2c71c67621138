"""The functions that run inside a process of the pool, with the processors made there from their configuration.

Gateway and process exchange bytes, text, numbers, lists of these, and arrays; nothing else.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from typing import Any, Literal

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadAnswer, BadItem, Blob, Postprocessor
from tfs_deploy.gateway.processors.registry import make_postprocessor

Step = Literal["preprocess", "postprocess"]

# The processors of this process, by key.
_processors: dict[str, Postprocessor] = {}
_started_job: Any = None
# Large arrays of the last job, read in chunks: a message of 40 MB would hold the gateway's interpreter lock for 0.1 s.
_large_arrays: dict[str, Array] = {}
PIECE_BYTES = 1 << 20


def init_process(begun: Any) -> None:
    """Prepare this process: end with the gateway in any case, and ignore the Ctrl-C for the gateway.

    `begun` is the number of the last job, in memory shared with the gateway.
    """
    global _started_job
    _started_job = begun
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def run_job(number: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run the job `number`, and publish that it was started."""
    _started_job.value = number
    return function(*arguments)


def make_processors(configured: bytes) -> str:
    """Make the processors in `configured` (JSON: key to ProcessorConfig); return the error or an empty string."""
    try:
        for key, spec in msgspec.json.decode(configured, type=dict[str, ProcessorConfig]).items():
            _processors[key] = make_postprocessor(spec)
    except InvalidInput as error:
        return str(error)
    return ""


def pack(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return `items` as tuples of plain values."""
    return [(item.data, item.content_type, item.name) if isinstance(item, Blob) else (item,) for item in items]


def run(key: str, step: Step, payload: Any) -> tuple[Any, ...]:
    """Run one step; return ``("done", result)``, or an error for `unpack_reply` as text.

    A large array is ``(shape, an empty array of its dtype)``; `read_piece` returns its bytes.
    """
    _large_arrays.clear()
    try:
        processor: Any = _processors[key]
        if step == "preprocess":
            items = [Blob(*packed) if len(packed) > 1 else packed[0] for packed in payload]
            return ("done", {name: _keep_large(name, array) for name, array in processor.preprocess(items).items()})
        return ("done", processor.postprocess(payload))
    except BadItem as error:
        return ("item", error.index, error.reason, error.remedy)
    except BadAnswer as error:
        return ("answer", error.cause, error.remedy)
    except InvalidInput as error:
        return ("input", error.cause, error.remedy)
    except Exception:  # a bug in a processor, for the gateway's log
        return ("mistake", traceback.format_exc())


def read_piece(name: str, start: int) -> bytes:
    """Return `PIECE_BYTES` bytes from `start` on of the large array `name` of the last job."""
    return bytes(_large_arrays[name].reshape(-1).view(np.uint8)[start : start + PIECE_BYTES].data)


def _keep_large(name: str, array: Array) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject or array.nbytes <= PIECE_BYTES:
        return array
    _large_arrays[name] = np.ascontiguousarray(array)
    return array.shape, np.empty(0, array.dtype)


class ProcessorError(Exception):
    """A processor raised an unexpected exception; the text is the traceback, for the log only."""


def unpack_reply(reply: tuple[Any, ...]) -> Any:
    """Return the result in `reply`, or raise the error in it."""
    kind, *received = reply
    if kind == "done":
        return received[0]
    raised = {"item": BadItem, "answer": BadAnswer, "input": InvalidInput, "mistake": ProcessorError}
    raise raised[kind](*received)


def run_locally(processor: Any, step: Step, payload: Sequence[Any] | Arrays) -> Any:
    """Run one step in the gateway's process, with the same errors as in the pool."""
    try:
        return getattr(processor, step)(payload)
    except (BadAnswer, InvalidInput):
        raise
    except Exception as error:
        raise ProcessorError(traceback.format_exc()) from error
