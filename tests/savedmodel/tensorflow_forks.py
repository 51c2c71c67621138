"""Scripts in forks of one process that has imported TensorFlow, because the import takes most of a script's time.

`TensorFlowForks` starts ``python tensorflow_forks.py``. That process forks for each line of its stdin, JSON
``[output file, script, argument, ...]``, and answers with the exit code. No session exists before a fork, so a script
begins as in a process of its own, and may crash.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent


class TensorFlowForks:
    """Runs the scripts of this directory; a context manager."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, cwd=HERE
        )
        self._lock = threading.Lock()

    def __enter__(self) -> TensorFlowForks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def run(self, output: Path, script: str, *arguments: object) -> int:
        """Run a script with its output in a file; return the exit code, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps([str(output), script, *map(str, arguments)]) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def check(self, output: Path, script: str, *arguments: object) -> None:
        """Run a script that must succeed."""
        assert self.run(output, script, *arguments) == 0, output.read_text()


def _run_in_fork(output: str, script: str, *arguments: str) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(output, "wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(HERE))
    code: object = 0
    try:
        runpy.run_path(str(HERE / script), run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    import keras
    import tensorflow

    assert keras.backend.backend() == "tensorflow" == tensorflow.__name__
    for line in sys.stdin:
        print(_run_in_fork(*json.loads(line)), flush=True)
