"""What becomes of an export whose process hangs, dies or is not what it should be; no TensorFlow is involved."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import DeadlineExceeded, ExportFailed, InvalidInput
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.source import CheckpointSource, SourceKind


@pytest.fixture
def source(tmp_path: Path) -> CheckpointSource:
    (tmp_path / "m.keras").write_bytes(b"")
    return CheckpointSource(SourceKind.KERAS, str(tmp_path / "m.keras"))


def interpreter(tmp_path: Path, script: str) -> str:
    """Return an executable that stands in for a Python interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "python"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return str(path)


def assert_nothing_left(tmp_path: Path) -> None:
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in {"bin", "pid"}) == ["m.keras"]


@dataclass(frozen=True)
class Process:
    """A process by its id and its start, because a busy machine soon gives the id to another process."""

    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _start(pid))

    def wait_until_gone(self) -> None:
        for _ in range(200):
            if not self.start or _start(self.pid) != self.start:
                return
            time.sleep(0.05)
        raise AssertionError(f"process {self.pid} is still there")


def _start(pid: int) -> str:
    """Return the start time of a process as the kernel counts it; nothing for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def test_a_hanging_export_is_stopped_with_all_it_started(source: CheckpointSource, tmp_path: Path) -> None:
    python = interpreter(tmp_path, f"sleep 100 & echo $! > {tmp_path}/pid; wait\n")
    with pytest.raises(DeadlineExceeded, match="did not end in time"):
        export(source, tmp_path / "out", python=python, clock=SystemClock(), timeout=1.0)
    Process.of(int((tmp_path / "pid").read_text())).wait_until_gone()
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo I am out of memory; kill -9 $$", r"signal 9, SIGKILL\); its last output: 'I am out of memory'"),
        ("exit 3", r"exit code 3"),
        ("exit 0", r"exit code 0"),
    ],
)
def test_a_dying_export_is_reported(source: CheckpointSource, tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(ExportFailed, match=message):
        export(source, tmp_path / "out", python=interpreter(tmp_path, script), clock=SystemClock(), timeout=30)
    assert_nothing_left(tmp_path)


def test_an_interpreter_that_cannot_be_started_is_named(source: CheckpointSource, tmp_path: Path) -> None:
    python = Path(interpreter(tmp_path, ""))
    python.write_text("#!/no/such/shell\n")
    with pytest.raises(InvalidInput, match="cannot be started"):
        export(source, tmp_path / "out", python=str(python), clock=SystemClock(), timeout=30)
    assert_nothing_left(tmp_path)


def test_an_interpreter_without_tensorflow_is_named(source: CheckpointSource, tmp_path: Path) -> None:
    # -S leaves out site-packages; numpy alone is given back.
    numpy_home = Path(__import__("numpy").__file__).parents[1]
    folder = tmp_path / "bin" / "packages"
    python = interpreter(tmp_path, f'PYTHONPATH={folder} exec {sys.executable} -S "$@"\n')
    folder.mkdir()
    for name in ("numpy", "numpy.libs"):
        if (numpy_home / name).exists():
            (folder / name).symlink_to(numpy_home / name)
    with pytest.raises(
        InvalidInput, match="cannot import TensorFlow: ModuleNotFoundError: No module named 'tensorflow'"
    ):
        export(source, tmp_path / "out", python=python, clock=SystemClock(), timeout=60)
    assert_nothing_left(tmp_path)


EXPORTER = """
    import sys
    from pathlib import Path
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.savedmodel.export.exporter import export
    from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind

    root = Path(sys.argv[1])
    source = CheckpointSource(SourceKind.KERAS, str(root / "m.keras"), sys.argv[3])
    options = ExportOptions(search_path=(sys.argv[4],))
    export(source, root / "out", options, python=sys.argv[2], clock=SystemClock(), timeout=100)
"""


def start_exporter(tmp_path: Path, python: str) -> tuple[subprocess.Popen[bytes], Process]:
    """Start an export in a process of its own; return it and the process that it waits for."""
    arguments = [str(tmp_path), python, "tiny_models:hanging", str(Path(__file__).parent)]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(EXPORTER), *arguments])
    for _ in range(400):
        if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text().strip()):
            return process, Process.of(int(text))
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the export did not start")


def test_sigterm_cleans_up(source: CheckpointSource, tmp_path: Path) -> None:
    exporter, child = start_exporter(tmp_path, interpreter(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 100\n"))
    exporter.send_signal(signal.SIGTERM)
    assert exporter.wait(60) == 128 + signal.SIGTERM
    child.wait_until_gone()
    assert_nothing_left(tmp_path)


@pytest.mark.tensorflow
def test_the_child_leaves_when_its_parent_is_killed(source: CheckpointSource, tmp_path: Path) -> None:
    wrapper = interpreter(tmp_path, f'echo $$ > {tmp_path}/pid; exec {sys.executable} "$@"\n')
    exporter, child = start_exporter(tmp_path, wrapper)
    exporter.kill()
    exporter.wait(60)
    child.wait_until_gone()
    assert not (tmp_path / "out").exists()
