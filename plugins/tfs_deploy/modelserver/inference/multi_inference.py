"""MultiInference: several classify and regress signatures of one version, on one input, in one run (contract 7.4).

The signatures of a TensorFlow 2 export have an input tensor each; all of them get the same examples.
"""

from __future__ import annotations

from typing import Any

from tfs_deploy.modelserver.graph.servable import Servable
from tfs_deploy.modelserver.inference import classify, over_examples, regress
from tfs_deploy.modelserver.inference.classify import Classifications
from tfs_deploy.modelserver.inference.examples import serialized_examples
from tfs_deploy.modelserver.inference.over_examples import CLASSIFY_METHOD, REGRESS_METHOD, Answered
from tfs_deploy.modelserver.inference.regress import Regressions
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument
from tfs_deploy.serving.codec import messages

_KINDS: dict[str, Any] = {CLASSIFY_METHOD: classify, REGRESS_METHOD: regress}


def spec_of(request: Any) -> Any:
    """Return the ModelSpec that chooses the version for all tasks: the first task's, an empty one without tasks."""
    return request.tasks[0].model_spec if request.tasks else messages.ModelSpec()


def run_multi_inference(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> list[Classifications | Regressions]:
    """Answer a MultiInferenceRequest (its version is chosen already), one result per task; raise StatusError."""
    feeds: set[str] = set()
    fetches: set[str] = set()
    signatures: dict[str, Any] = {}
    for task in request.tasks:
        key, signature = _signature(servable, request, task, signatures)
        signatures[key] = signature
        task_feed, task_fetches = _kind(task).tensor_names(signature, check_method_name=check_method_name)
        feeds.add(task_feed)
        fetches.update(task_fetches)
    examples = serialized_examples(request.input)
    outputs = over_examples.run(servable, sorted(feeds), examples, sorted(fetches), timeout_ms)
    return [
        _kind(task).result(Answered(task.model_spec.name, servable.version, key), signature, outputs, len(examples))
        for task, (key, signature) in zip(request.tasks, signatures.items(), strict=True)
    ]


def _signature(servable: Servable, request: Any, task: Any, seen: dict[str, Any]) -> tuple[str, Any]:
    """Return the name and SignatureDef of a task; refuse other models, repeated and unknown signatures."""
    name = task.model_spec.name
    if not name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if name != request.tasks[0].model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    key = over_examples.signature_key(task.model_spec)
    if key in seen:
        raise invalid_argument(f"Duplicate evaluation of signature: {key}")
    if key not in servable.signature_defs.signature_def:
        raise invalid_argument(f"Requested signature not found in model graph: {key}")
    return key, servable.signature_defs.signature_def[key]


def _kind(task: Any) -> Any:
    """Return the module that knows the task's method."""
    kind = _KINDS.get(task.method_name)
    if kind is None:
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return kind
