"""A loaded version: its signatures, and how a signature is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfs_deploy.serving.codec import messages

Array = npt.NDArray[Any]


class Session(Protocol):
    """Runs a graph; `graph_session.GraphSession` is one, a batching session may stand before it."""

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        targets: Sequence[str] = (),
        *,
        timeout_ms: int | None = None,
    ) -> list[np.ndarray[Any, Any]]:
        """Return the fetched arrays by position."""

    def close(self) -> None:
        """Give the memory back."""


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """What answers the requests for one version.

    `signature_defs` is a ``SignatureDefMap`` message, as it stands in ``saved_model.pb``.
    """

    name: str
    version: int
    signature_defs: Any
    session: Session
    _plans: dict[str, SignaturePlan] = field(default_factory=dict, init=False, repr=False)
    _held: list[Any] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Let any number of requests read the signatures at once."""
        self._held.extend(objects_of(self.signature_defs))

    def plan(self, key: str) -> SignaturePlan | None:
        """Return what requests for the signature `key` need, made when it is first asked for; None if unknown."""
        plan = self._plans.get(key)
        if plan is None and key in self.signature_defs.signature_def:
            plan = SignaturePlan.of(self.name, self.version, key, self.signature_defs.signature_def[key])
            self._plans[key] = plan
        return plan


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


def objects_of(message: Any) -> list[Any]:
    """Return the objects of `message` and of all its parts; nobody has to make one while the list is held."""
    objects = [message]
    for descriptor in message.DESCRIPTOR.fields:
        part = descriptor.message_type
        if part is not None and part.GetOptions().map_entry:
            values = getattr(message, descriptor.name)
            objects.append(values)
            if part.fields_by_name["value"].message_type is not None:
                for key in values:
                    objects += objects_of(values[key])
        elif descriptor.is_repeated:
            values = getattr(message, descriptor.name)
            objects.append(values)
            if part is not None:
                for value in values:
                    objects += objects_of(value)
        elif part is not None:
            # Also of what is not set: reading it makes an object, too, and that has no parts that anybody reads.
            value = getattr(message, descriptor.name)
            objects += objects_of(value) if message.HasField(descriptor.name) else [value]
    return objects
