"""Requests for Classify, Regress and MultiInference, for tests."""

from __future__ import annotations

from typing import Any

from tfs_deploy.serving.codec import messages

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def example(**features: float | bytes) -> Any:
    """Return a tf.Example with one float or one byte string per feature."""
    made = messages.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            made.features.feature[name].bytes_list.value.append(value)
        else:
            made.features.feature[name].float_list.value.append(value)
    return made


def _fill(request: Any, examples: tuple[Any, ...], context: Any) -> Any:
    if context is not None:
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.CopyFrom(context)
    elif examples:
        request.input.example_list.examples.extend(examples)
    return request


def classification(name: str, signature: str, *examples: Any, context: Any = None, **spec: Any) -> Any:
    """Return a ClassificationRequest."""
    request = messages.ClassificationRequest(model_spec={"name": name, "signature_name": signature, **spec})
    return _fill(request, examples, context)


def regression(name: str, signature: str, *examples: Any, context: Any = None, **spec: Any) -> Any:
    """Return a RegressionRequest."""
    request = messages.RegressionRequest(model_spec={"name": name, "signature_name": signature, **spec})
    return _fill(request, examples, context)


def multi(tasks: list[tuple[str, str, str]], *examples: Any) -> Any:
    """Return a MultiInferenceRequest of (model, signature, method) tasks."""
    request = messages.MultiInferenceRequest()
    for name, signature, method in tasks:
        request.tasks.add(model_spec={"name": name, "signature_name": signature}, method_name=method)
    return _fill(request, examples, None)
