"""Work on a store in S3 in children that can be killed.

Run as a program it imports everything once and forks a child per job, since importing takes longer than the work.
"""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

from store.finished import put_document
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.object_store.connection import S3Options
from tfs_deploy.store.object_store.store import S3Store

OPERATIONS = ["publish", "withdraw", "delete", "write"]


def operate(uri: str, options: S3Options, name: str, staged: tuple[Path, Manifest]) -> None:
    """Do one of OPERATIONS; publishers that died hold no lease here."""
    store = S3Store(uri, options=options, lease_seconds=0)
    if name == "publish":
        store.publish(*staged, "m")
    elif name == "withdraw":
        store.withdraw("m", 1, "bad")
    elif name == "delete":
        store.delete("m", 1)
    else:
        put_document(store, b"new")


class Children:
    """Starts the program, and children through it, one at a time."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-m", "store.s3_children"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started = threading.Event()
        self._child = 0

    @property
    def child(self) -> int:
        """Return the process id of the child at work."""
        assert self._started.wait(30)
        return self._child

    def run(self, *job: object) -> int:
        """Let a child `operate`, and return its exit code, negative for a signal."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._started.clear()
        self._program.stdin.write(base64.b64encode(pickle.dumps(job)).decode() + "\n")
        self._program.stdin.flush()
        self._child = int(self._program.stdout.readline())
        self._started.set()
        return int(self._program.stdout.readline())

    def close(self) -> None:
        """End the program."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(30)


def main() -> None:
    """Fork a child per line of the standard input."""
    import boto3  # noqa: F401
    import botocore.session  # noqa: F401
    import obstore.store  # noqa: F401

    for line in sys.stdin:
        job = pickle.loads(base64.b64decode(line))
        child = os.fork()
        if child == 0:
            try:
                operate(*job)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
