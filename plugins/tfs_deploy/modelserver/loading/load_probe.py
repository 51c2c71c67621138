"""Tries each load in a child process first, so that a crash of TensorFlow's runtime is a failed load.

When TensorFlow is imported and before its first session, the server forks a fork server; for each load this forks a
child, which loads the version with its warm-up and exits. A fork requires no second import and, because the pages are
shared, hardly any memory; a load takes about twice its time. If the child ends by a signal or with another exit status
than its own, the load fails with that; an error that the child can catch is raised again by the real load.

Not covered: failures of the server's own process (out of memory, a crash while a version is unloaded or answers a
request), crashes that do not happen every time, and code on GPUs, which are hidden from the child.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import selectors
import signal
import stat
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NoReturn

from tfs_deploy.modelserver import runtime
from tfs_deploy.modelserver.lifecycle.monitor import ServableId
from tfs_deploy.modelserver.loading.loader import LoadOptions, SavedModelLoader
from tfs_deploy.modelserver.status import Code, StatusError

logger = logging.getLogger(__name__)

SWITCH = "TFS_DEPLOY_LOAD_PROBE"  # "0" in the environment: no probe

Job = Callable[[ServableId, str], None]

_SURVIVED = 42  # the child's exit status; not 0, because an operation of the graph may call exit(0)
_KEPT_CHARACTERS = 600  # of the line with the reason of an abort
_FATAL = re.compile(r"F\d{4} ")
_READ_BYTES = 65536
_MAX_DESCRIPTORS = 65536  # the system's limit may be a billion; the server has few open at its start


class LoadProbe:
    """The server's side: sends requests to the fork server and waits for its answers."""

    def __init__(self, job: Job) -> None:
        """Prepare; `job` loads one version and is called in children only."""
        self._job = job
        self._lock = threading.Lock()
        self._requests = -1
        self._answers: dict[int, Future[tuple[int, str]]] = {}
        self._request_count = 0

    def start(self) -> None:
        """Fork the fork server; only after TensorFlow's import and before its first session."""
        if os.environ.get(SWITCH, "") == "0" or not hasattr(os, "fork"):
            return
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        try:
            child = _fork_with_threads()
        except OSError as error:
            logger.warning("Loads are not tried in a child process first: %s", error)
            return
        if child == 0:
            os.close(request_write)
            os.close(answer_read)
            _ForkServer(self._job, request_read, answer_write).run()
        os.close(request_read)
        os.close(answer_write)
        self._requests = request_write
        threading.Thread(target=self._listen, args=(answer_read, child), name="load-probe", daemon=True).start()

    def check(self, id_: ServableId, path: str) -> None:
        """Raise ABORTED if the load of `path` ends the child that tries it; return at once without a fork server."""
        runtime.tensorflow()  # from now on the fork server exists, if ever
        answer: Future[tuple[int, str]] = Future()
        with self._lock:
            if self._requests < 0:
                return
            self._request_count += 1
            self._answers[self._request_count] = answer
            line = json.dumps([self._request_count, id_.name, id_.version, path]) + "\n"
            try:
                os.write(self._requests, line.encode())
            except OSError:  # the fork server has ended; `_listen` handles it
                return
        status, tail = answer.result()
        if status != _SURVIVED:
            raise StatusError(
                Code.ABORTED,
                f"TensorFlow's runtime ended the process in which the load of {id_} was tried ({_exit_text(status)})"
                + (f": {tail}" if tail else ""),
            )

    def _listen(self, answers: int, child: int) -> None:
        with os.fdopen(answers, encoding="utf-8") as lines:
            for line in lines:
                number, status, tail = json.loads(line)
                with self._lock:
                    waiting = self._answers.pop(number)
                waiting.set_result((status, tail))
        logger.warning("The process that tries loads has ended; from now on loads are not tried first")
        with self._lock:
            os.close(self._requests)
            self._requests = -1
            left, self._answers = self._answers, {}
        for waiting in left.values():
            waiting.set_result((_SURVIVED, ""))
        os.waitpid(child, 0)


def _exit_text(status: int) -> str:
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"exit status {status}"


def _fork_with_threads() -> int:
    """Fork a process that has threads, of which Python warns from 3.12 on; return the child's id.

    TensorFlow's import, whose pages are shared, starts threads itself. The warning is about a lock that another thread
    holds at the fork, which stays locked in the child: the fork is before TensorFlow's first session and before any
    request uses it, gRPC is not used in the child, and the locks of `runtime` are made again.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    written: bytearray = field(default_factory=bytearray)


class _ForkServer:
    """The fork server: one thread, which forks and listens; it ends when the server's end of the pipe closes."""

    def __init__(self, job: Job, requests: int, answers: int) -> None:
        self._job = job
        self._requests = requests
        self._answers = answers
        self._selector: selectors.BaseSelector | None = None
        self._children: dict[int, _Child] = {}
        self._buffer = bytearray()

    def run(self) -> NoReturn:
        """Serve until the server ends; never return into the server's code."""
        try:
            self._detach()
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._requests, selectors.EVENT_READ)
            while True:
                for key, _ in self._selector.select():
                    if key.fd == self._requests:
                        self._read_requests()
                    else:
                        self._read_child(key.fd)
        except BaseException as error:
            os.write(2, f"The process that tries loads ends: {error!r}\n".encode())
            os._exit(1)

    def _detach(self) -> None:
        """Close the server's ports and ignore SIGINT and SIGTERM, which the server handles."""
        # gRPC's objects exist here without its threads: to collect one of them would abort the process.
        gc.disable()
        gc.freeze()
        _close_sockets()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the server holds the GPU's memory
        logging.disable(logging.CRITICAL)
        runtime.after_fork()

    def _read_requests(self) -> None:
        data = os.read(self._requests, _READ_BYTES)
        if not data:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)
            os._exit(0)
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            number, name, version, path = json.loads(line)
            self._fork(number, ServableId(name, version), path)

    def _fork(self, number: int, id_: ServableId, path: str) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _run_child(self._job, id_, path, write)
        os.close(write)
        self._children[read] = _Child(number, pid)
        assert self._selector is not None
        self._selector.register(read, selectors.EVENT_READ)

    def _read_child(self, fd: int) -> None:
        child = self._children[fd]
        data = os.read(fd, _READ_BYTES)
        if data:
            child.written += data
            del child.written[:-_READ_BYTES]
            return
        assert self._selector is not None
        self._selector.unregister(fd)
        os.close(fd)
        del self._children[fd]
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        tail = "" if code == _SURVIVED else _fatal_line(bytes(child.written))
        os.write(self._answers, (json.dumps([child.number, code, tail]) + "\n").encode())


def _close_sockets() -> None:
    """Close the server's ports and connections; the next server could not open a port that stays open here."""
    for descriptor in range(3, min(os.sysconf("SC_OPEN_MAX"), _MAX_DESCRIPTORS)):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.close(descriptor)
        except OSError:
            continue


def _run_child(job: Job, id_: ServableId, path: str, stderr: int) -> NoReturn:
    """Run the job with its standard error in the pipe, whose end of file means the child's end."""
    try:
        os.dup2(stderr, 2)
        os.close(stderr)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        job(id_, path)
    except BaseException:  # noqa: S110 - the real load raises an error that can be caught
        pass
    os._exit(_SURVIVED)


def _fatal_line(written: bytes) -> str:
    """Return the log line with which the runtime aborted, which is marked with F."""
    lines = written.decode("utf-8", errors="replace").splitlines()
    fatal = [line for line in lines if _FATAL.match(line)]
    return fatal[-1][:_KEPT_CHARACTERS] if fatal else ""


def try_load(options: LoadOptions, id_: ServableId, path: str) -> None:
    """Load a version as the server would; the child's exit releases it."""
    SavedModelLoader(id_, path, options).load()
