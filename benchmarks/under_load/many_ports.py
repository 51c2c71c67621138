"""Model servers of constant answers on many ports: one asyncio server per child process listens on all of its ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

_PROCESSES = 2
_END_SECONDS = 10.0
# GetModelStatus lists these as AVAILABLE; every other label is unknown.
LABELS = {b"stable": 2, b"previous": 1}


@dataclass(frozen=True)
class Ports:
    """The addresses, and the processes that answer there."""

    targets: tuple[str, ...]
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """Return the processor time that the servers have used."""
        return sum(_cpu_seconds(pid) for pid in self.pids)


@contextlib.contextmanager
def many_ports(count: int) -> Iterator[Ports]:
    """Yield `count` addresses that serve versions 1 and 2 of any model, with the labels of `LABELS`."""
    shares = [count // _PROCESSES + (index < count % _PROCESSES) for index in range(_PROCESSES)]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_child(share)) for share in shares if share]
        # The replicas of all processes in turn, so that they share the load from the first one on.
        lines = [child.stdout.readline().split() for child in children if child.stdout is not None]
        if not all(lines):
            raise SystemExit("the servers did not start")
        targets = tuple(f"127.0.0.1:{port}" for line in lines for port in line)
        yield Ports(targets, tuple(child.pid for child in children))


@contextlib.contextmanager
def _child(count: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "under_load.many_ports", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _serve(count: int) -> None:
    """In the child process: serve until standard input ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                rpc.MODEL_SERVICE, {rpc.GET_MODEL_STATUS.name: grpc.unary_unary_rpc_method_handler(_status)}
            ),
            grpc.method_handlers_generic_handler(
                rpc.PREDICTION_SERVICE, {rpc.GET_MODEL_METADATA.name: grpc.unary_unary_rpc_method_handler(_metadata)}
            ),
        )
    )
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(count)]
    await server.start()
    print(*ports, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # No stop of the server: it would send every client a GOAWAY, which gRPC logs.
    os._exit(0)


def _status_reply() -> bytes:
    reply = messages.GetModelStatusResponse()
    for version in (2, 1):
        reply.model_version_status.add(version=version, state=30)
    return bytes(reply.SerializeToString())


def _metadata_reply(version: int) -> bytes:
    signatures = messages.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[name].name, tensors[name].dtype = f"{name}:0", 1
    reply = messages.GetModelMetadataResponse()
    reply.model_spec.name, reply.model_spec.version.value = "m", version
    reply.metadata["signature_def"].Pack(signatures)
    return bytes(reply.SerializeToString())


_STATUS = _status_reply()
_METADATA = {label: _metadata_reply(version) for label, version in LABELS.items()}


async def _status(request: bytes, context: Any) -> bytes:
    return _STATUS


async def _metadata(request: bytes, context: Any) -> bytes:
    for label, reply in _METADATA.items():
        if label in request:
            return reply
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label")
    return b""


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
