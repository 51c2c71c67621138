"""A SignatureDef taken apart once, so that a request costs dictionary look-ups and no walk through protobuf maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfs_deploy.serving.codec import messages


@dataclass(frozen=True, slots=True, eq=False)
class SignaturePlan:
    """What requests for one signature of one version need.

    `inputs` and `outputs` are tensor names by alias, outputs in the order of their aliases; `spec` is the serialized
    ModelSpec of the replies.
    """

    definition: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    spec: bytes

    @classmethod
    def of(cls, model: str, version: int, key: str, definition: Any) -> SignaturePlan:
        """Return the plan for the SignatureDef called `key`."""
        spec = messages.ModelSpec(name=model, signature_name=key)
        spec.version.value = version
        return cls(
            definition,
            {alias: definition.inputs[alias].name for alias in definition.inputs},
            {alias: definition.outputs[alias].name for alias in sorted(definition.outputs)},
            spec.SerializeToString(),
        )
