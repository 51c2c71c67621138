"""The entry point of ``tfs-deploy`` and of ``python -m tfs_deploy.cli``.

It imports nothing of this package before it handles Ctrl-C: the imports take a tenth of a second, and an interrupt
during them would print a traceback.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line of this process."""
    # A shell starts background jobs with SIGINT ignored, and that stays so.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _exit_at_once)
    from tfs_deploy.cli.main import run_program

    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_program()
    except KeyboardInterrupt:  # between the two lines above, or in the first one of `run_program`
        _exit_at_once(signal.SIGINT, None)
    finally:
        if interruptible:
            # The interpreter prints a traceback for an exception during its shutdown.
            signal.signal(signal.SIGINT, _exit_at_once)


def _exit_at_once(signum: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"tfs-deploy: Interrupted.\n")
    os._exit(128 + signum)


if __name__ == "__main__":
    run()
