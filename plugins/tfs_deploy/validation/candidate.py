"""The version under validation, as one replica serves it: every answer is checked to come from that version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tfs_deploy.errors import Permanent, Transient, ValidationFailed
from tfs_deploy.savedmodel.labelled import LabelledSet
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.savedmodel.requests import GoldenRequest
from tfs_deploy.serving.protocol import Prediction, ServingClient
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import Check, Verdict


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The version that answers now, to compare with, on the server that serves it."""

    client: ServingClient
    version: int


@dataclass(frozen=True, slots=True)
class Material:
    """What the gates need besides a server: read once, used on every replica."""

    manifest: Manifest
    golden: tuple[GoldenRequest, ...]
    labelled: LabelledSet | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version on one replica."""

    client: ServingClient
    model: str
    version: int
    material: Material
    live: LiveVersion | None
    timeout: float

    def predict(self, inputs: Mapping[str, np.ndarray], signature: str = DEFAULT_SIGNATURE) -> Prediction:
        """Ask this very version; raise ValidationFailed if another one answers."""
        return ask(self.client, self.model, self.version, inputs, signature, self.timeout)


def ask(
    client: ServingClient,
    model: str,
    version: int,
    inputs: Mapping[str, np.ndarray],
    signature: str,
    timeout: float,
) -> Prediction:
    """Send one Predict to an explicit version and assert the version in the reply."""
    reply = client.predict(model, inputs, version=version, signature=signature, timeout=timeout)
    if reply.version != version:
        raise ValidationFailed(
            f"Replica {client.target} answered for version {version} of {model!r} with version {reply.version}.",
            "Look for a proxy between the deployer and the replica.",
        )
    return reply


Gate = Callable[[Candidate, Gates], Check | None]


def run_gate(name: str, gate: Gate, candidate: Candidate, gates: Gates) -> Check | None:
    """Run one gate; an error of the model is a fail, an error of the way to it is inconclusive."""
    try:
        return gate(candidate, gates)
    except Transient as error:
        return Check(name, candidate.client.target, Verdict.INCONCLUSIVE, error.cause)
    except Permanent as error:
        return Check(name, candidate.client.target, Verdict.FAIL, error.cause)
