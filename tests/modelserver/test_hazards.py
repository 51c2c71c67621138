"""Requests that end a stock server (contract 20.11), so the contract suite lacks them; this server refuses them."""

from __future__ import annotations

import pytest

from modelserver.wire import model
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow

T = messages.TensorProto


def test_tensors_that_end_a_stock_server(server, wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base"))
    for proto, text in (
        (T(dtype=20), "Expects arg[0] to be float but resource is provided"),
        (T(dtype=101), "tensor parsing error: x"),
    ):
        assert wire.predict_error(name, inputs={"x": proto}) == ("INVALID_ARGUMENT", text)
    assert server.process.poll() is None
    assert wire.answer(name) == 1.0
