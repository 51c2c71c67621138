"""What still runs of a demo, or of a part of it, by the directory that it works in."""

from __future__ import annotations

import os
import time
from pathlib import Path


def still_running(workspace: Path) -> list[str]:
    """Return the command lines of processes that have the workspace in their arguments or environment, or are in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            where = os.fsencode(os.readlink(process / "cwd"))
            if os.fsencode(workspace) in b"\0".join((command, (process / "environ").read_bytes(), where)):
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def left_running(workspace: Path, seconds: float = 30.0) -> list[str]:
    """Return what still runs after all had time to see that they are alone: a resource tracker notices it, say."""
    give_up = time.monotonic() + seconds
    while (left := still_running(workspace)) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left
