"""The ``Input`` of Classify, Regress and MultiInference: a list of tf.Examples, as one vector of strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array
from tfs_deploy.modelserver.status import invalid_argument


def serialized_examples(source: Any) -> Array:
    """Return the serialized tf.Examples of an ``Input`` message, bytes in an object array of shape ``[n]``, n > 0.

    A context goes before each example, byte by byte: parsed as one message, the example's features join the context's.
    """
    kind = source.WhichOneof("kind")
    holder = None if kind is None else getattr(source, kind)
    if holder is None or not holder.examples:
        raise invalid_argument("Input is empty.")
    context = holder.context.SerializeToString() if kind == "example_list_with_context" else b""
    vector = np.empty(len(holder.examples), dtype=object)
    vector[:] = [context + example.SerializeToString() for example in holder.examples]
    return vector
