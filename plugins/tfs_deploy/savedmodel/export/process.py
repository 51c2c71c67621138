"""Start the exporting process, wait for it, and turn its result file into a result or an error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import tfs_deploy
from tfs_deploy.clock import Deadline
from tfs_deploy.errors import DeadlineExceeded, ExportFailed, InvalidInput, MissingExtra, NotFound, Permanent
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.savedmodel.export.child import NO_TENSORFLOW
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions

logger = logging.getLogger(__name__)

_TAIL_BYTES = 4096
# Loads this package by its path, without adding that directory to sys.path: the other packages in it belong to another
# interpreter. The current directory is removed, so that no file in it is imported as a module.
_BOOTSTRAP = """
import importlib.util, os, sys
if sys.path and sys.path[0] == "":
    del sys.path[0]
package, job = sys.argv[1:3]
spec = importlib.util.spec_from_file_location(
    "tfs_deploy", os.path.join(package, "__init__.py"), submodule_search_locations=[package])
module = importlib.util.module_from_spec(spec)
sys.modules["tfs_deploy"] = module
spec.loader.exec_module(module)
from tfs_deploy.savedmodel.export.child import main
code = main(job)
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""
_ERRORS: dict[str, type[Permanent]] = {"InvalidInput": InvalidInput, "NotFound": NotFound}


@dataclass(frozen=True, slots=True)
class ChildResult:
    """The result of the exporting process: `index` describes the requests in the file `arrays`."""

    index: dict[str, Any]
    arrays: Path
    warnings: tuple[str, ...]


def run_child(
    source: CheckpointSource,
    options: ExportOptions,
    directory: Path,
    workspace: Path,
    *,
    python: str | None,
    deadline: Deadline,
) -> ChildResult:
    """Export `source` into `directory` in a process of its own; the two exchange files in `workspace`."""
    job = {
        "source": to_builtins(source),
        "options": to_builtins(options),
        "directory": str(directory),
        "result": str(workspace / "result.json"),
        "arrays": str(workspace / "arrays.npz"),
    }
    (workspace / "job.json").write_text(json.dumps(job), encoding="utf-8")
    code = _run(_interpreter(python), workspace, deadline, own=python is None)
    result = _read_result(workspace / "result.json")
    output = _output_tail(workspace / "output.txt")
    if "error" in result:
        logger.error("Output of the export process:\n%s", output)
        raise _error(result["error"], python)
    if result.get("done"):
        return ChildResult(result, workspace / "arrays.npz", tuple(result["warnings"]))
    if result.get("exported") and not options.samples:
        warning = (
            f"No warm-up request was written: the model ended its process on inputs of zeros ({_exit_text(code)})."
        )
        return ChildResult({"warmup": [], "golden": []}, workspace / "arrays.npz", (warning,))
    raise ExportFailed(
        f"The export process for {source.path!r} ended without a result ({_exit_text(code)}); "
        f"its last output: {output[-600:]!r}.",
        "Read the log of the export; the model may have crashed TensorFlow or used up the memory.",
    )


@contextlib.contextmanager
def termination_unwinds() -> Iterator[None]:
    """Let SIGTERM raise SystemExit in the block, so that clean-up runs; an existing handler stays."""
    try:
        unset = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        previous = signal.signal(signal.SIGTERM, _terminate) if unset else None
    except ValueError:  # signals can be handled in the main thread only
        previous = None
    try:
        yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _interpreter(python: str | None) -> str:
    if python is None:
        return sys.executable
    executable = shutil.which(python)
    if executable is None:
        raise InvalidInput(f"There is no Python interpreter {python!r}.", "Name an executable that has TensorFlow.")
    return executable


def _run(interpreter: str, workspace: Path, deadline: Deadline, *, own: bool) -> int:
    command = [interpreter, "-c", _BOOTSTRAP, str(Path(tfs_deploy.__file__).parent), str(workspace / "job.json")]
    with (workspace / "output.txt").open("wb") as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell; the interpreter is the caller's choice
                command,
                stdin=subprocess.PIPE,  # held open, never written: its end tells the child that the parent died
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(own=own),
                start_new_session=True,
            )
        except OSError as error:
            raise InvalidInput(
                f"The Python interpreter {interpreter!r} cannot be started: {error.strerror or error}.",
                "Name an executable that has TensorFlow.",
            ) from error
        try:
            return process.wait(timeout=deadline.remaining())
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(
                "The export did not end in time and was stopped.", "Give it a longer timeout, or check why it hangs."
            ) from error
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # The process leads its own group, so processes that a builder started end with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _environment(*, own: bool) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # With oneDNN, recorded outputs differ between CPU models in the last digits, and an input of a wrong rank aborts
    # the process instead of raising an error (contract 20.1).
    environment.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Only Keras on TensorFlow can write a SavedModel. A fixed hash seed keeps exports the same byte for byte.
    environment.update(KERAS_BACKEND="tensorflow", PYTHONHASHSEED="0")
    if not own:
        # They were set for this interpreter and would lead another one to its packages.
        for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):
            environment.pop(name, None)
    return environment


def _error(error: dict[str, str], python: str | None) -> Exception:
    if error["kind"] == NO_TENSORFLOW:
        if python is None:
            return MissingExtra("tensorflow", "tensorflow")
        return InvalidInput(
            f"The interpreter {python!r} cannot import TensorFlow: {error['cause']}.",
            "Install tensorflow there, or name another interpreter.",
        )
    return _ERRORS.get(error["kind"], ExportFailed)(error["cause"], error["remedy"])


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return result


def _output_tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _TAIL_BYTES))
        return stream.read().decode("utf-8", errors="replace").strip()


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}, {signal.Signals(-code).name}"
