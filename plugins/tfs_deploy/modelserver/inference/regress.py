"""Regress on one version: one number for each tf.Example (contract 7.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfs_deploy.modelserver.graph.servable import Array, Servable
from tfs_deploy.modelserver.inference import over_examples
from tfs_deploy.modelserver.inference.debug_string import debug_string
from tfs_deploy.modelserver.inference.over_examples import Answered
from tfs_deploy.modelserver.status import invalid_argument

_OUTPUTS = "outputs"
_KIND = "regression"


@dataclass(frozen=True, slots=True, eq=False)
class Regressions:
    """The answer: `values`, float32, of shape [examples]."""

    answered: Answered
    values: Array


def run_regress(
    servable: Servable, request: Any, *, check_method_name: bool = False, timeout_ms: int | None = None
) -> Regressions:
    """Answer a RegressionRequest (its version is chosen already); raise StatusError."""
    names = partial(tensor_names, check_method_name=check_method_name)
    ran = over_examples.run_one(servable, request, "Regress", names, timeout_ms)
    return result(ran.answered, ran.signature, ran.outputs, ran.count)


def tensor_names(signature: Any, *, check_method_name: bool) -> tuple[str, list[str]]:
    """Return the tensor to feed and those to fetch; refuse a signature of another structure."""
    if check_method_name:
        over_examples.check_method(signature, _KIND, over_examples.REGRESS_METHOD)
    over_examples.check_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    feed = over_examples.input_tensor(signature, _KIND)
    if _OUTPUTS not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {debug_string(signature)}")
    return feed, [signature.outputs[_OUTPUTS].name]


def result(answered: Answered, signature: Any, outputs: Mapping[str, Array], count: int) -> Regressions:
    """Return the answer in `outputs`, which are by tensor name; refuse an output of another shape or dtype."""
    output = outputs[signature.outputs[_OUTPUTS].name]
    if not (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{over_examples.shape_text(output)}"
        )
    if output.shape[0] != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {output.shape[0]}")
    if output.dtype != np.float32:
        raise over_examples.wrong_dtype("output", "DT_FLOAT", "  ", output)
    return Regressions(answered, output.reshape(-1))
