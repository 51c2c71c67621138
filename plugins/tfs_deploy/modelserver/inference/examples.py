"""Runs on tf.Examples, for Classify, Regress and MultiInference: input, signature, run, the reply's ModelSpec."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import text_format

from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.graph.servable import Array, Servable
from tfs_deploy.modelserver.status import StatusError, invalid_argument, of_exception
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
_INPUTS = "inputs"
# A line with a number of one of TensorProto's lists; line breaks within strings are escaped.
_NUMBER = re.compile(r"^( *(?P<list>float_val|scomplex_val|double_val|dcomplex_val): )(?P<value>.+)$", re.MULTILINE)
_FLOAT_LISTS = ("float_val", "scomplex_val")


@dataclass(frozen=True, slots=True)
class ReplySpec:
    """The ModelSpec of an answer: the version that gave it, never a label."""

    model: str
    version: int
    signature: str

    def serialized(self) -> bytes:
        """Return the serialized ModelSpec."""
        spec = messages.ModelSpec(name=self.model, signature_name=self.signature)
        spec.version.value = self.version
        data: bytes = spec.SerializeToString()
        return data


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of one signature: its `outputs` are by tensor name, `count` is how many examples went in."""

    spec: ReplySpec
    signature: Any
    outputs: dict[str, Array]
    count: int


def run_signature(
    servable: Servable,
    request: Any,
    api: str,
    tensor_names: Callable[[Any], tuple[str, list[str]]],
    timeout_ms: int | None,
) -> Run:
    """Run the signature that a ClassificationRequest or RegressionRequest names; raise StatusError.

    `tensor_names` returns the tensor to feed and those to fetch, and refuses a signature of another structure; `api` is
    the name in the metrics.
    """
    key = signature_key(request.model_spec)
    if key not in servable.signature_defs.signature_def:
        # Predict answers FAILED_PRECONDITION here (contract 7.3).
        raise invalid_argument(f"No signature was found with the name: {key}")
    signature = servable.signature_defs.signature_def[key]
    feed, fetches = tensor_names(signature)
    examples = serialized_examples(request.input)
    begun = time.monotonic()
    outputs = run(servable, (feed,), examples, fetches, timeout_ms)
    metrics.record_run(servable.name, api, begun)
    return Run(ReplySpec(request.model_spec.name, servable.version, key), signature, outputs, len(examples))


def signature_key(spec: Any) -> str:
    """Return the signature name in a ModelSpec, or the default one."""
    return str(spec.signature_name) or DEFAULT_SIGNATURE


def check_method(signature: Any, kind: str, method: str) -> None:
    """Refuse a signature of another method, for --enable_signature_method_name_check."""
    if signature.method_name != method:
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")


def check_one_input(signature: Any) -> None:
    """Refuse a signature with no input or several."""
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def input_tensor(signature: Any, kind: str) -> str:
    """Return the tensor of the input ``inputs``, which takes the examples."""
    if _INPUTS not in signature.inputs:
        raise invalid_argument(f"No {kind} inputs found in SignatureDef: {debug_string(signature)}")
    return str(signature.inputs[_INPUTS].name)


def run(
    servable: Servable, feeds: Iterable[str], examples: Array, fetches: Sequence[str], timeout_ms: int | None
) -> dict[str, Array]:
    """Return the fetched tensors by name, from one run in which every feed gets the vector of serialized examples."""
    try:
        outputs = servable.session.run(dict.fromkeys(feeds, examples), fetches, timeout_ms=timeout_ms)
    except Exception as error:  # of the runtime: every kind of it has a code
        raise of_exception(error) from error
    metrics.record_examples(servable.name, len(examples))
    return {name: np.asarray(value) for name, value in zip(fetches, outputs, strict=True)}


def shape_text(array: Array) -> str:
    """Return the shape as TensorFlow writes it, ``[2,3]``."""
    return f"[{','.join(map(str, array.shape))}]"


def wrong_dtype(kind: str, expected: str, gap: str, array: Array) -> StatusError:
    """Return the error for an output of another dtype; `gap` is the space that TF Serving has between the sentences."""
    return invalid_argument(f"Expected {kind} Tensor of {expected}.{gap}Got: {tensors.dtype_name(array)}")


def serialized_examples(source: Any) -> Array:
    """Return the serialized tf.Examples of an ``Input`` message, bytes in an object array of shape ``[n]``, n > 0.

    The bytes of a context precede those of each example: parsed as one message, the features of both are merged.
    """
    kind = source.WhichOneof("kind")
    holder = None if kind is None else getattr(source, kind)
    if holder is None or not holder.examples:
        raise invalid_argument("Input is empty.")
    context = holder.context.SerializeToString() if kind == "example_list_with_context" else b""
    vector = np.empty(len(holder.examples), dtype=object)
    vector[:] = [context + example.SerializeToString() for example in holder.examples]
    return vector


def debug_string(message: Any) -> str:
    """Return `message` as C++ protobuf's ``DebugString``, which TF Serving quotes in errors.

    It has octal escapes for text that is not ASCII, and prints numbers as C++ does (``0`` for 0.0).
    """
    text = text_format.MessageToString(message, as_utf8=False)
    return _NUMBER.sub(lambda line: line[1] + _decimal_text(float(line["value"]), line["list"] in _FLOAT_LISTS), text)


def _decimal_text(printed: float, single: bool) -> str:
    """Return a number with 6 digits (15 for a double) if they parse to the same value, else with 9 (17)."""
    kind, few, many = (np.float32, 6, 9) if single else (np.float64, 15, 17)
    value = kind(printed)
    short = f"{value:.{few}g}"
    return short if np.isnan(value) or kind(float(short)) == value else f"{value:.{many}g}"
