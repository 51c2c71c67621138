"""One JSON object per request, written by a thread: a reader that stalls holds up no answer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from datetime import datetime, timezone
from typing import Any, BinaryIO

import msgspec

from tfs_deploy.gateway.web.message import Request

logger = logging.getLogger(__name__)

_MOST_WAITING = 50_000
_PAUSE_SECONDS = 0.1
_MAX_PATH = 256


class AccessLog:
    """Writes to `stream`; lines for which there is no room are counted in `dropped`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped = 0
        self._stream = stream
        # Appended to by the event loop, emptied by the thread; neither needs a lock for that.
        self._lines: deque[dict[str, Any]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def note(self, request: Request, status: int, size: int, seconds: float, at: float) -> None:
        """Write one line about `request`, which was answered after `seconds`, at `at` seconds since 1970.

        The query is left out, and no header is written: keys may be in them.
        """
        line = {
            "time": at,
            "request_id": request.id,
            "method": request.method[:16],
            "path": request.path[:_MAX_PATH],
            "status": status,
            "bytes": size,
            "ms": round(seconds * 1000, 3),
            "remote": request.remote,
        }
        if request.client:
            line["client"] = request.client
        line |= request.notes
        if request.stages:
            line["stages_ms"] = {stage: round(taken * 1000, 3) for stage, taken in request.stages.items()}
        if len(self._lines) < _MOST_WAITING:
            self._lines.append(line)
        else:
            self.dropped += 1

    def close(self, seconds: float) -> None:
        """Write what waits, within `seconds`."""
        self._ended.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        # Not woken by every line: each time would take the interpreter from the event loop.
        while not self._ended.wait(_PAUSE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._stream.write(b"".join(map(_encoded, lines)))
            self._stream.flush()
        except (OSError, ValueError) as error:
            logger.warning("The access log cannot be written: %s", error)


def _encoded(line: dict[str, Any]) -> bytes:
    at = datetime.fromtimestamp(line["time"], timezone.utc)
    told = {**line, "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    return msgspec.json.encode(told) + b"\n"
