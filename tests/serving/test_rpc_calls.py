"""What a client remembers, and what it asks again: the exchanges without any I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import FakeClient, FakeModelServer, FakeVersion, half_plus_two
from tfs_deploy.errors import InvalidInput, ModelServerError, NotFound
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

X = np.float32([1, 2])
DOUBLES = Signature({"x": TensorSpec("DT_DOUBLE", (None,))}, {"y": TensorSpec("DT_FLOAT", (None,))}, "predict")


class Bench:
    """A server with versions 1, 2 (floats) and 3 (doubles) of `m`, and a client."""

    def __init__(self) -> None:
        self.server = FakeModelServer()
        for version in (1, 2):
            self.server.put("/m", version)
        self.server.put("/m", 3, FakeVersion(signatures={DEFAULT_SIGNATURE: DOUBLES, "extra": DOUBLES}))
        self.client = FakeClient(self.server)
        self.label(1)
        self.label(1)

    def label(self, version: int) -> None:
        """Move `stable` behind the client's back."""
        entry = ModelEntry("m", "/m", (1, 2, 3), {"stable": version})
        FakeClient(self.server).reload(to_proto([entry]), timeout=1)

    def asked(self) -> list[str]:
        names = [name for name, _ in self.server.requests if name in ("Predict", "GetModelMetadata")]
        self.server.requests.clear()
        return names

    def predict(self, x: Any = X, **choice: Any) -> int:
        return self.client.predict("m", {"x": x}, **(choice or {"label": "stable"}), timeout=1).version


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_signature_is_asked_for_once(bench: Bench) -> None:
    assert [bench.predict() for _ in range(3)] == [1, 1, 1]
    assert bench.asked() == ["GetModelMetadata", "Predict", "Predict", "Predict"]


def test_a_moved_label_is_noticed_in_the_reply_and_asked_for_again(bench: Bench) -> None:
    bench.predict()
    bench.label(2)
    assert [bench.predict() for _ in range(3)] == [2, 2, 2]
    assert bench.asked() == ["GetModelMetadata", "Predict", "Predict", "GetModelMetadata", "Predict", "Predict"]


def test_what_a_moved_label_now_takes_is_not_refused(bench: Bench) -> None:
    bench.predict()
    bench.label(3)
    bench.asked()
    assert bench.predict(np.float64([1])) == 3
    assert bench.asked() == ["GetModelMetadata", "Predict"]
    assert bench.predict(np.float64([1]), label="stable", signature="extra") == 3


def test_what_a_moved_label_no_longer_takes_is_refused_by_the_server_once(bench: Bench) -> None:
    bench.predict()
    bench.label(3)
    with pytest.raises(ModelServerError, match="DT_DOUBLE"):
        bench.predict()
    bench.asked()
    with pytest.raises(InvalidInput, match="must be DT_DOUBLE"):
        bench.predict()
    assert bench.asked() == ["GetModelMetadata"]


def test_inputs_that_do_not_fit_are_never_sent(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput):
            bench.predict(np.int32([1]), version=1)
    assert "Predict" not in bench.asked()


def test_a_version_that_went_away_is_asked_for_again(bench: Bench) -> None:
    bench.predict(version=2)
    entry = ModelEntry("m", "/m", (1,), {"stable": 1})
    FakeClient(bench.server).reload(to_proto([entry]), timeout=1)
    bench.asked()
    for _ in range(2):
        with pytest.raises(NotFound, match=r"Specific\(m, 2\)"):
            bench.predict(version=2)
    assert bench.asked() == ["Predict", "GetModelMetadata"]


def test_another_version_than_the_one_asked_for_is_no_answer(bench: Bench) -> None:
    handle = bench.server.handle

    def lying(method: Any, request: bytes) -> bytes:
        reply = handle(method, request)
        if method.name != "Predict":
            return reply
        response = method.response_class.FromString(reply)
        response.model_spec.version.value = 2
        return response.SerializeToString()

    bench.server.handle = lying
    with pytest.raises(ModelServerError, match="version 2 answered instead of 1"):
        bench.predict(version=1)


def test_an_input_with_a_default_may_be_left_out() -> None:
    signature = Signature(
        {"x": TensorSpec("DT_FLOAT", (None,)), "scale": TensorSpec("DT_FLOAT", ())},
        {"y": TensorSpec("DT_FLOAT", (None,))},
        "predict",
        optional=("scale",),
    )
    server = FakeModelServer()
    server.put("/m", 1, FakeVersion(function=half_plus_two, signatures={DEFAULT_SIGNATURE: signature}))
    client = FakeClient(server)
    client.reload(to_proto([ModelEntry("m", "/m", (1,))]), timeout=1)
    assert client.predict("m", {"x": X}, timeout=1).version == 1
    assert client.predict("m", {"x": X, "scale": np.float32(1)}, timeout=1).version == 1
    with pytest.raises(InvalidInput, match="lacks 'x'"):
        client.predict("m", {"scale": np.float32(1)}, timeout=1)


@pytest.mark.parametrize("model", ["", None, 7, "\ud800"])
def test_a_model_name_is_text(bench: Bench, model: Any) -> None:
    with pytest.raises(InvalidInput, match="model name"):
        bench.client.status(model, timeout=1)


@pytest.mark.parametrize("version", [True, "1", 1.0, 2**63])
def test_a_version_is_a_64_bit_int(bench: Bench, version: Any) -> None:
    with pytest.raises(InvalidInput, match="64-bit int"):
        bench.client.status("m", version, timeout=1)
