"""Lines on stdin of a program that runs an event loop."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable

# A longer line is no name.
_MAX_CHARACTERS = 60


def watch_stdin(on_line: Callable[[str], None]) -> None:
    """Call `on_line` with every line on stdin, on the running loop, if stdin is a pipe or the terminal of this job.

    A process in the background that reads from its terminal would be stopped; a file has an end and no moments.
    """
    try:
        descriptor = sys.stdin.fileno()
        kind = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # no stdin, a closed one, or an object of a test
        return
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or _is_own_terminal(descriptor)):
        return
    loop, lines = asyncio.get_running_loop(), LineBuffer()

    def read() -> None:
        if os.isatty(descriptor) and not _is_own_terminal(descriptor):
            return
        data = os.read(descriptor, 4096)
        for line in lines.feed(data):
            on_line(line)
        if not data:
            loop.remove_reader(descriptor)

    loop.add_reader(descriptor, read)


class LineBuffer:
    """Cuts bytes into lines of printable text without blanks around it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: 4 * _MAX_CHARACTERS]
        return [_printable(line.decode("utf-8", "replace"))[:_MAX_CHARACTERS] for line in lines]


def _is_own_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()
