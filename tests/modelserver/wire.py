"""The raw wire, for tests: messages go out as they are, and errors come back as (code, message)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.status import read_statuses


class Wire:
    """Calls one model server."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)
        self.models: tuple[Any, ...] = ()

    def call(self, method: rpc.Method, request: Any, timeout: float | None = 60.0) -> Any:
        """Return the reply, or raise grpc.RpcError; a `timeout` of None sends no deadline."""
        return self.start(method, request, timeout).result()

    def start(self, method: rpc.Method, request: Any, timeout: float | None = 60.0) -> Any:
        """Return the future of a call."""
        stub = self.channel.unary_unary(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response_class.FromString,
        )
        return stub.future(request, timeout=timeout, wait_for_ready=True)

    def error(self, method: rpc.Method, request: Any, timeout: float = 60.0) -> tuple[str, str]:
        """Return (code, message) of a call that must fail."""
        try:
            reply = self.call(method, request, timeout)
        except grpc.RpcError as failed:
            return failed.code().name, failed.details()
        raise AssertionError(f"no error, but {reply}")

    def predict(self, model: str, **options: Any) -> Any:
        """Return the reply to `predict_request(model, **options)`."""
        return self.call(rpc.PREDICT, predict_request(model, **options))

    def answer(self, model: str, **options: Any) -> float:
        """Return `y` for x = 1: the scale models give their w."""
        return float(tensors.to_array(self.predict(model, **options).outputs["y"])[0])

    def predict_error(self, model: str, **options: Any) -> tuple[str, str]:
        """Return the error of `predict_request(model, **options)`."""
        return self.error(rpc.PREDICT, predict_request(model, **options))

    def reload(self, *models: Any, timeout: float = 60.0) -> None:
        """Apply a whole config."""
        self.call(rpc.HANDLE_RELOAD_CONFIG, reload_request(*models), timeout)

    def reload_error(self, *models: Any, timeout: float = 60.0) -> tuple[str, str]:
        """Return the error of a config that must be refused."""
        return self.error(rpc.HANDLE_RELOAD_CONFIG, reload_request(*models), timeout)

    def rows(self, model: str) -> list[tuple[int, str, int, str]]:
        """Return (version, state, code, message) as they come; an empty list for NOT_FOUND."""
        # As bytes: a message in it may not be UTF-8 (contract 20.7).
        ask = self.channel.unary_unary(
            rpc.GET_MODEL_STATUS.path, request_serializer=lambda message: message.SerializeToString()
        )
        request = messages.GetModelStatusRequest(model_spec={"name": model})
        try:
            rows = read_statuses(ask(request, timeout=20.0, wait_for_ready=True))
        except grpc.RpcError as failed:
            if failed.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return []
        codes = {name: number for number, name in messages.enum_names("tensorflow.error.Code").items()}
        return [(row.version, row.state.value, codes[row.error_code], row.error_message) for row in rows]

    def states(self, model: str) -> dict[int, str]:
        """Return the state by version."""
        return {version: state for version, state, _, _ in self.rows(model)}

    def close(self) -> None:
        self.channel.close()


def predict_request(
    model: str,
    *,
    x: Any = (1.0,),
    inputs: dict[str, Any] | None = None,
    version: int | None = None,
    label: str | None = None,
    signature: str = "",
    outputs: tuple[str, ...] = (),
) -> Any:
    """Return a PredictRequest; `inputs` are arrays or TensorProtos, `x` the one input of the scale models."""
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for alias, value in ({"x": np.array(x, np.float32)} if inputs is None else inputs).items():
        proto = value if hasattr(value, "tensor_shape") else tensors.to_proto(np.asarray(value))
        request.inputs[alias].CopyFrom(proto)
    request.output_filter.extend(outputs)
    return request


def model(name: str, base_path: Any, *versions: int, labels: dict[str, int] | None = None, **fields: Any) -> Any:
    """Return a ModelConfig: policy specific with `versions`, latest without."""
    fields.setdefault("model_platform", "tensorflow")
    config = messages.ModelConfig(name=name, base_path=str(base_path), **fields)
    if versions:
        config.model_version_policy.specific.versions.extend(versions)
    for label, version in (labels or {}).items():
        config.version_labels[label] = version
    return config


def reload_request(*models: Any) -> Any:
    """Return the request for a whole config."""
    request = messages.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    request.config.model_config_list.config.extend(models)
    return request


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true value of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {value!r}"
        time.sleep(0.03)


def wait_state(wire: Wire, name: str, version: int, state: str, seconds: float = 60.0) -> tuple[int, str]:
    """Wait until a version is in `state`; return its code and message."""
    row = eventually(lambda: [r for r in wire.rows(name) if r[:2] == (version, state)], seconds)[0]
    return row[2], row[3]
