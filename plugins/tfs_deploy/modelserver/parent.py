"""End with the process that started this server, where that one asked for it: no throw-away server outlives its run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

VARIABLE = "TFS_DEPLOY_END_WITH_PARENT"
_LOOK_SECONDS = 0.5


def end_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when the process whose id is in the environment is no longer the parent of this one."""
    text = os.environ.get(VARIABLE, "")
    if not text.isdecimal():
        return
    parent = int(text)

    def watch() -> None:
        # An orphan gets another parent; asking for that needs no signal and works however the parent ended.
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
