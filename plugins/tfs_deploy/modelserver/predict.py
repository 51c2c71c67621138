"""Predict on one version: from the request's tensors to the reply's bytes, with TF Serving's checks in its order.

Contract 7.2 and 20.1: nothing is cast, and shapes are not compared with the signature; the runtime says what it cannot
do with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import TFSDeployError
from tfs_deploy.modelserver.reply import encode_predict_response
from tfs_deploy.modelserver.servable import Array, Servable
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, invalid_argument, of_exception
from tfs_deploy.serving import messages, tensors
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

# `DataTypeString`: TensorFlow's names for the numbers of DataType, where they are not the enum's in lower case.
_UNSERVED = {
    11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource", 21: "variant",
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
    """Return the serialized PredictResponse; raise StatusError."""
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if key not in servable.signature_defs.signature_def:
        raise failed_precondition(f'Serving signature key "{key}" not found.')
    signature = servable.signature_defs.signature_def[key]
    if options.check_method_name and signature.method_name not in _METHOD_NAMES:
        raise StatusError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(_METHOD_NAMES)}}}. "
            f"Was: {signature.method_name}",
        )
    _check_count(signature, request.inputs)
    feeds = _feeds(signature, request.inputs)
    aliases = _output_aliases(signature, request.output_filter)
    try:
        outputs = servable.session.run(
            feeds, [signature.outputs[alias].name for alias in aliases], timeout_ms=timeout_ms
        )
    except Exception as error:  # of the runtime: every kind of it has a code
        raise of_exception(error) from error
    spec = messages.ModelSpec(name=request.model_spec.name, signature_name=key)
    spec.version.value = servable.version
    return encode_predict_response(spec, dict(zip(aliases, outputs, strict=True)), as_content=options.as_content)


def _check_count(signature: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse too many inputs, and too few where the signature has no defaults."""
    given, expected = len(inputs), len(signature.inputs)
    if given == expected or (given < expected and signature.defaults):
        return
    sent, known = set(inputs), set(signature.inputs)
    raise invalid_argument(
        f"input size does not match signature: {given}!={expected} len({_braces(sent)}) != len({_braces(known)}). "
        f"Sent extra: {_braces(sent - known)}. Missing but required: {_braces(known - sent)}."
    )


def _feeds(signature: Any, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays by tensor name, with the signature's defaults for what was not sent."""
    protos: dict[str, tuple[str, Any]] = {}
    used = 0
    for alias, info in signature.inputs.items():
        if alias in inputs:
            used += 1
            protos[info.name] = (alias, inputs[alias])
        elif alias in signature.defaults:
            protos[info.name] = (alias, signature.defaults[alias])
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braces(inputs)}, or default input alias set: "
                + ",".join(sorted(signature.defaults))
            )
    if used != len(inputs):
        known = ",".join(sorted(set(inputs) & set(signature.inputs)))
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {known}, request input: {','.join(sorted(inputs))}"
        )
    return {name: _array(alias, proto, signature, protos) for name, (alias, proto) in protos.items()}


def _array(alias: str, proto: Any, signature: Any, protos: Mapping[str, Any]) -> Array:
    unserved = _UNSERVED.get(proto.dtype)
    if unserved is not None:
        # Given to the runtime, a resource aborts a real server (contract 20.11); here it gets the dtype error that
        # a variant gets. The runtime counts arguments by sorted tensor name.
        info = signature.inputs[alias]
        expected = messages.enum_names("tensorflow.DataType")[info.dtype].removeprefix("DT_").lower()
        place = sorted(protos).index(info.name)
        raise invalid_argument(f"Expects arg[{place}] to be {expected} but {unserved} is provided")
    try:
        return tensors.to_array(proto)
    except (TFSDeployError, MemoryError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def _output_aliases(signature: Any, output_filter: Iterable[str]) -> list[str]:
    """Return the outputs that are asked for; all of them, if none is named."""
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(signature.outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(signature.outputs)


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
