"""Predict on one version: from the request's tensors to the reply's bytes, with TF Serving's checks in its order.

Contract 7.2 and 20.1: nothing is cast, and shapes are not compared with the signature; the runtime says what it cannot
do with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.graph.servable import Array, Servable
from tfs_deploy.modelserver.graph.signature_plan import SignaturePlan
from tfs_deploy.modelserver.inference.predict_reply import encode_predict_response
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument, of_exception
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

# `DataTypeString`: TensorFlow's names for the numbers of DataType, where they are not the enum's in lower case.
_UNSERVED = {
    11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource", 21: "variant",
    24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip


_METHOD_NAMES = tuple(f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What the flags say about Predict."""

    as_content: bool = False
    check_method_name: bool = False


PLAIN = PredictOptions()


def run_predict(
    servable: Servable, request: Any, options: PredictOptions = PLAIN, *, timeout_ms: int | None = None
) -> bytes:
    """Return the serialized PredictResponse; raise StatusError.

    `request` is a PredictRequest or a `PredictCall`; its version is chosen already.
    """
    plan, outputs = _run(servable, request, options, timeout_ms)
    return encode_predict_response(plan.spec, outputs, as_content=options.as_content)


def predict_outputs(
    servable: Servable, request: Any, options: PredictOptions = PLAIN, *, timeout_ms: int | None = None
) -> dict[str, Array]:
    """Return the outputs by alias; raise StatusError."""
    return _run(servable, request, options, timeout_ms)[1]


def _run(
    servable: Servable, request: Any, options: PredictOptions, timeout_ms: int | None
) -> tuple[SignaturePlan, dict[str, Array]]:
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    plan = servable.plan(key)
    if plan is None:
        raise failed_precondition(f'Serving signature key "{key}" not found.')
    if options.check_method_name and plan.definition.method_name not in _METHOD_NAMES:
        raise StatusError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(_METHOD_NAMES)}}}. "
            f"Was: {plan.definition.method_name}",
        )
    _check_count(plan, request.inputs)
    feeds = _feeds(plan, request.inputs)
    aliases = _output_aliases(plan, request.output_filter)
    begun = time.monotonic()
    try:
        outputs = servable.session.run(feeds, [plan.outputs[alias] for alias in aliases], timeout_ms=timeout_ms)
    except Exception as error:  # of the runtime: every kind of it has a code
        raise of_exception(error) from error
    metrics.ran(servable.name, "Predict", begun)
    return plan, dict(zip(aliases, outputs, strict=True))


def _check_count(plan: SignaturePlan, inputs: Mapping[str, Any]) -> None:
    """Refuse too many inputs, and too few where the signature has no defaults."""
    given, expected = len(inputs), len(plan.inputs)
    if given == expected or (given < expected and plan.definition.defaults):
        return
    sent, known = set(inputs), set(plan.inputs)
    raise invalid_argument(
        f"input size does not match signature: {given}!={expected} len({_braces(sent)}) != len({_braces(known)}). "
        f"Sent extra: {_braces(sent - known)}. Missing but required: {_braces(known - sent)}."
    )


def _feeds(plan: SignaturePlan, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays by tensor name, with the signature's defaults for what was not sent."""
    protos: dict[str, tuple[str, Any]] = {}
    signature = plan.definition
    used = 0
    for alias, name in plan.inputs.items():
        if alias in inputs:
            used += 1
            protos[name] = (alias, inputs[alias])
        elif alias in signature.defaults:
            protos[name] = (alias, signature.defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braces(inputs)}, or default input alias set: "
                + ",".join(sorted(signature.defaults))
            )
    if used != len(inputs):
        known = ",".join(sorted(set(inputs) & set(plan.inputs)))
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {known}, request input: {','.join(sorted(inputs))}"
        )
    return {name: _array(alias, proto, signature, protos) for name, (alias, proto) in protos.items()}


def _array(alias: str, proto: Any, signature: Any, protos: Mapping[str, Any]) -> Array:
    if isinstance(proto, np.ndarray):
        return proto
    unserved = _UNSERVED.get(proto.dtype)
    if unserved is not None:
        # Given to the runtime, a resource aborts a real server (contract 20.11); here it gets the dtype error that
        # a variant gets. The runtime counts arguments by sorted tensor name.
        info = signature.inputs[alias]
        expected = messages.enum_names("tensorflow.DataType")[info.dtype].removeprefix("DT_").lower()
        place = sorted(protos).index(info.name)
        raise invalid_argument(f"Expects arg[{place}] to be {expected} but {unserved} is provided")
    if proto.tensor_shape.unknown_rank:
        # The runtime looks at the dimensions all the same (contract 20.11).
        known = messages.TensorProto()
        known.CopyFrom(proto)
        known.tensor_shape.unknown_rank = False
        proto = known
    try:
        return tensors.to_array(proto)
    except (TFSDeployError, MemoryError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def _output_aliases(plan: SignaturePlan, output_filter: Iterable[str]) -> list[str]:
    """Return the outputs that are asked for; all of them, if none is named."""
    seen: list[str] = []
    for alias in output_filter:
        if alias not in plan.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(plan.outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or list(plan.outputs)


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
