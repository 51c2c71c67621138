"""A loaded version: its signatures, and how a signature is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfs_deploy.modelserver.graph.shared_message import objects_of
from tfs_deploy.modelserver.graph.signature_plan import SignaturePlan

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
