"""Model servers that answer from memory behind real gRPC ports, all in one child process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2] / "tests"
_END_SECONDS = 10.0


@contextlib.contextmanager
def light_replicas(count: int) -> Iterator[tuple[str, ...]]:
    """Yield the addresses of `count` servers, which serve any version directory as the model ``x / 2 + 2``."""
    command = [sys.executable, "-m", "under_load.light_replicas", str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1]
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the light replicas did not start")
        yield tuple(line.strip().split(","))
    finally:
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(count: int) -> None:
    """In the child process: serve until standard input ends."""
    sys.path.insert(0, str(_TESTS))
    from fakes import FakeModelServer
    from serving.grpc_front import serve

    with contextlib.ExitStack() as stack:
        servers = [FakeModelServer(f"replica-{number}") for number in range(count)]
        print(",".join(stack.enter_context(serve(server)) for server in servers), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
