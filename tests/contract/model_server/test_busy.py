"""More RPCs at once than --grpc_max_threads: each is refused at once, whatever its method (contract 20.12)."""

from __future__ import annotations

import grpc
import pytest

from contract.model_server.place import RPC_DRIVEN_FLAGS
from embedded_server import free_port
from modelserver.rest_wire import Rest
from modelserver.wire import Wire, eventually, model, predict_request, reload_request
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

THREADS = 4
EXHAUSTED = ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted")


def error_of(future):
    """Return (code, message) of a call that has ended, None if it succeeded."""
    error = future.exception(timeout=0)
    return None if error is None else (error.code().name, error.details())


def test_more_rpcs_than_threads(start, place, install):
    """A reload of a new name without a version waits for one, and keeps its thread meanwhile (contract 5.2)."""
    install("scale2", 1)
    waiting = place / "waiting"
    waiting.mkdir()
    models = [model("m", place / "base", 1)]
    port = free_port()
    flags = (*RPC_DRIVEN_FLAGS, f"--grpc_max_threads={THREADS}", f"--rest_api_port={port}")
    with start(*flags) as server:
        wire = Wire(server.target)
        wire.reload(*models)
        request = reload_request(*models, model("late", waiting))
        calls = [wire.start(rpc.HANDLE_RELOAD_CONFIG, request) for _ in range(4 * THREADS)]
        # Not exactly THREADS, because a server of C++ has a thread that only waits for calls.
        eventually(lambda: sum(call.done() for call in calls) >= 3 * THREADS)
        refused = [call for call in calls if call.done()]
        assert {error_of(call) for call in refused} == {EXHAUSTED}

        status = messages.GetModelStatusRequest(model_spec={"name": "m"})
        metadata = messages.GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=["signature_def"])
        for method, message in (
            (rpc.GET_MODEL_STATUS, status),
            (rpc.GET_MODEL_METADATA, metadata),
            (rpc.PREDICT, predict_request("m")),
            (rpc.HANDLE_RELOAD_CONFIG, reload_request(*models)),
        ):
            assert wire.error(method, message) == EXHAUSTED
        assert Rest(port).get("/v1/models/m").code == 200

        install("scale3", 1, base=waiting)
        waited = [call for call in calls if call not in refused]
        assert waited
        assert [call.exception(timeout=60) for call in waited] == [None] * len(waited)
        assert eventually(lambda: answers(wire)) == 2.0
        wire.close()


def answers(wire):
    """Return the answer of `m`, None while the server is busy."""
    try:
        return wire.answer("m")
    except grpc.RpcError:
        return None
