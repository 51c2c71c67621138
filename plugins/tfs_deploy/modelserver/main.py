"""Start and stop of the embedded model server, in TF Serving's order (contract 1, 20.8)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from types import FrameType

import tfs_deploy
from tfs_deploy.clock import SystemClock
from tfs_deploy.modelserver import flags as flags_module
from tfs_deploy.modelserver import runtime
from tfs_deploy.modelserver.flags import Flags, MalformedFlag
from tfs_deploy.modelserver.server import Server
from tfs_deploy.modelserver.status import StatusError, of_exception

logger = logging.getLogger(__name__)

PROGRAM = "tfs-deploy model-server"
EXIT_FAILED = 255  # the exit status of a process that returns -1
_GRACE_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return 0 then, 255 if the server could not start, with the reason on stdout."""
    try:
        flags = flags_module.parse(arguments)
    except MalformedFlag as error:
        print(f"{error}\n{flags_module.usage(PROGRAM)}", flush=True)  # noqa: T201
        return EXIT_FAILED
    if flags.asks_for_help:
        print(flags_module.usage(PROGRAM), flush=True)  # noqa: T201
        return EXIT_FAILED
    if flags.switch("version"):
        print(_versions())  # noqa: T201
        return 0
    _configure_logging()
    if flags.unknown:
        print(f"unknown argument: {flags.unknown[0]}\n{flags_module.usage(PROGRAM)}", flush=True)  # noqa: T201
    _warn_of_flags_without_effect(flags)
    return _serve(flags)


def _serve(flags: Flags) -> int:
    stopped = threading.Event()
    failure: list[StatusError] = []
    server: list[Server] = []

    def start() -> None:
        try:
            made = Server(flags, SystemClock())
            server.append(made)
            made.start()
        except Exception as error:  # the main thread prints it
            failure.append(of_exception(error))
            stopped.set()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopped.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
    end_with_parent(stopped.set)
    runtime.start_import()
    # In its own thread: start-up may wait forever for a first version, and the main thread must handle signals.
    threading.Thread(target=start, name="start-up", daemon=True).start()
    stopped.wait()
    if failure:
        print(f"Failed to start server. Error: {failure[0]}", flush=True)  # noqa: T201
        return EXIT_FAILED
    logger.info("Stopping")
    for made in server:
        made.stop(_GRACE_SECONDS)
    return 0


def _configure_logging() -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s.%(msecs)03dZ %(levelname).1s %(name)s] %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )  # fmt: skip


def _warn_of_flags_without_effect(flags: Flags) -> None:
    names = flags.without_effect()
    if names:
        logger.warning("Accepted, without meaning in this model server: %s", ", ".join(f"--{name}" for name in names))


def _versions() -> str:
    try:
        library = metadata.version("tensorflow")
    except metadata.PackageNotFoundError:  # as in builds for one kind of machine, tensorflow-cpu and others
        library = "unknown"
    return f"TensorFlow ModelServer: tfs-deploy {tfs_deploy.__version__}\nTensorFlow Library: {library}"


PARENT_VARIABLE = "TFS_DEPLOY_END_WITH_PARENT"
_PARENT_POLL_SECONDS = 0.5


def end_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when the process whose id is in PARENT_VARIABLE is no longer this one's parent.

    So a server that was started for one run ends with it, however that run ends.
    """
    text = os.environ.get(PARENT_VARIABLE, "")
    if not text.isdecimal():
        return
    parent = int(text)

    def watch() -> None:
        # An orphan gets another parent, whatever ended the first one; polling requires no signal.
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_SECONDS)
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
