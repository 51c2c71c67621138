"""A loaded version: its signatures and its session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfs_deploy.serving.codec import messages

Array = npt.NDArray[Any]


class Session(Protocol):
    """Runs a graph: a `GraphSession`, or a batching session that wraps it."""

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
        """Release the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """A loaded version; `signature_defs` is a ``SignatureDefMap`` with all signatures of its ``saved_model.pb``."""

    name: str
    version: int
    signature_defs: Any
    session: Session
    _plans: dict[str, SignaturePlan] = field(default_factory=dict, init=False, repr=False)
    _parts: list[Any] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Make concurrent reads of the signatures safe; see `all_parts`."""
        self._parts.extend(all_parts(self.signature_defs))

    def plan(self, key: str) -> SignaturePlan | None:
        """Return the plan of the signature `key`, made at its first use; None for an unknown one."""
        plan = self._plans.get(key)
        if plan is None and key in self.signature_defs.signature_def:
            plan = SignaturePlan.of(self.name, self.version, key, self.signature_defs.signature_def[key])
            self._plans[key] = plan
        return plan


@dataclass(frozen=True, slots=True, eq=False)
class SignaturePlan:
    """A SignatureDef unpacked once, so that a request costs dictionary lookups instead of reads of protobuf maps.

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


def all_parts(message: Any) -> list[Any]:
    """Return the Python objects of `message` and of all its parts; while they are held, threads may read the message.

    Python's protobuf makes the object of a part at its first use, keeps it while it is referenced, and is not
    thread-safe in between: two threads that read the same part can end the process (seen with protobuf 7.36, a
    segmentation fault in ``_message.abi3.so``). Existing objects are only looked up.
    """
    objects = [message]
    for descriptor in message.DESCRIPTOR.fields:
        part = descriptor.message_type
        if part is not None and part.GetOptions().map_entry:
            values = getattr(message, descriptor.name)
            objects.append(values)
            if part.fields_by_name["value"].message_type is not None:
                for key in values:
                    objects += all_parts(values[key])
        elif descriptor.is_repeated:
            values = getattr(message, descriptor.name)
            objects.append(values)
            if part is not None:
                for value in values:
                    objects += all_parts(value)
        elif part is not None:
            # Reading an unset part makes an object, too; its own parts are not read.
            value = getattr(message, descriptor.name)
            objects += all_parts(value) if message.HasField(descriptor.name) else [value]
    return objects
