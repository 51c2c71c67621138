"""MultiInference: several classify and regress signatures of one version, on one input, in one run (contract 7.4).

The signatures of a TensorFlow 2 export have an input tensor each; all of them get the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tfs_deploy.modelserver.graph.servable import Servable
from tfs_deploy.modelserver.inference import classify_regress, examples
from tfs_deploy.modelserver.inference.classify_regress import Classifications, Regressions
from tfs_deploy.modelserver.inference.examples import ReplySpec
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.wire_format import length_delimited

# inference.proto: fields of the response and of a result.
_RESULTS, _SPEC, _CLASSIFICATION, _REGRESSION = 1, 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Method:
    """How a task of one method is run: the tensors that it feeds and fetches, and the answer in its outputs."""

    tensors: Callable[..., tuple[str, list[str]]]
    answer: Callable[..., Classifications | Regressions]


_METHODS = {
    examples.CLASSIFY_METHOD: _Method(classify_regress.classification_tensors, classify_regress.classifications),
    examples.REGRESS_METHOD: _Method(classify_regress.regression_tensors, classify_regress.regressions),
}


def spec_of(request: Any) -> Any:
    """Return the ModelSpec that chooses the version for all tasks: the first task's, an empty one without tasks."""
    return request.tasks[0].model_spec if request.tasks else messages.ModelSpec()


def run_multi_inference(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> list[Classifications | Regressions]:
    """Answer a MultiInferenceRequest, whose version is chosen already, one result per task; raise StatusError."""
    feeds: set[str] = set()
    fetches: set[str] = set()
    signatures: dict[str, Any] = {}
    for task in request.tasks:
        key, signature = _signature(servable, request, task, signatures)
        signatures[key] = signature
        task_feed, task_fetches = _method(task).tensors(signature, check_method_name=check_method_name)
        feeds.add(task_feed)
        fetches.update(task_fetches)
    vector = examples.serialized_examples(request.input)
    outputs = examples.run(servable, sorted(feeds), vector, sorted(fetches), timeout_ms)
    return [
        _method(task).answer(ReplySpec(task.model_spec.name, servable.version, key), signature, outputs, len(vector))
        for task, (key, signature) in zip(request.tasks, signatures.items(), strict=True)
    ]


def encode_multi_inference(answers: Iterable[Classifications | Regressions]) -> bytes:
    """Return the serialized MultiInferenceResponse."""
    results = (
        length_delimited(_SPEC, answer.spec.serialized())
        + length_delimited(
            _CLASSIFICATION if isinstance(answer, Classifications) else _REGRESSION, answer.serialized_result()
        )
        for answer in answers
    )
    return b"".join(length_delimited(_RESULTS, result) for result in results)


def _signature(servable: Servable, request: Any, task: Any, earlier: dict[str, Any]) -> tuple[str, Any]:
    """Return the name and SignatureDef of a task; refuse other models, repeated and unknown signatures."""
    name = task.model_spec.name
    if not name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if name != request.tasks[0].model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    key = examples.signature_key(task.model_spec)
    if key in earlier:
        raise invalid_argument(f"Duplicate evaluation of signature: {key}")
    if key not in servable.signature_defs.signature_def:
        raise invalid_argument(f"Requested signature not found in model graph: {key}")
    return key, servable.signature_defs.signature_def[key]


def _method(task: Any) -> _Method:
    method = _METHODS.get(task.method_name)
    if method is None:
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return method
