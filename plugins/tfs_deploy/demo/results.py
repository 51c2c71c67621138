"""The results of the demo: the record in the store, and replies of the model servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfs_deploy.demo.airflow_process import DagRun
from tfs_deploy.demo.digits import held_out
from tfs_deploy.deployment import records, validation_results
from tfs_deploy.deployment.records import Action
from tfs_deploy.errors import NotFound
from tfs_deploy.serving.client import connect
from tfs_deploy.store.protocol import StateDocuments
from tfs_deploy.validation.runner import worst_metrics

LABELS = ("stable", "previous")
_RPC_SECONDS = 10.0
# The moves of `stable`, and rejected versions.
_SHOWN_ACTIONS = frozenset({Action.PROMOTED, Action.ROLLED_BACK, Action.REJECTED})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One training run and its version; `version` None: nothing was published."""

    run: DagRun
    version: int | None
    fingerprint: str
    accuracy: float | None
    verdict: str
    label: str


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of the record."""

    time: str
    action: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One digit and the reply for it."""

    image: np.ndarray
    truth: int
    digit: int
    probability: float
    version: int


def labels(targets: Sequence[str], model: str) -> dict[str, int]:
    """Return the version of each label on which all replicas agree."""
    first, *others = (_labels_of(target, model) for target in targets)
    return {label: version for label, version in first.items() if all(other.get(label) == version for other in others)}


def _labels_of(target: str, model: str) -> dict[str, int]:
    client = connect(target)
    versions = {}
    try:
        for label in LABELS:
            try:
                versions[label] = client.metadata(model, label=label, timeout=_RPC_SECONDS).version
            except NotFound:
                continue
    finally:
        client.close()
    return versions


def ask(target: str, model: str, rows: Sequence[int]) -> tuple[Answer, ...]:
    """Classify those rows of the held-out digits through label `stable`."""
    held_images, held_labels = held_out()
    images = held_images[list(rows)]
    client = connect(target)
    try:
        prediction = client.predict(model, {"images": images}, label="stable", timeout=_RPC_SECONDS)
    finally:
        client.close()
    digits, probabilities = prediction.outputs["digit"], prediction.outputs["probabilities"]
    return tuple(
        Answer(image, int(held_labels[row]), int(digits[at]), float(probabilities[at, digits[at]]), prediction.version)
        for at, (row, image) in enumerate(zip(rows, images, strict=True))
    )


def known_versions(documents: StateDocuments, group: str, model: str) -> tuple[int, ...]:
    """Return every version in the record, oldest first."""
    return tuple(dict.fromkeys(entry.version for entry in records.history(documents, group, model)))


def attempt(
    documents: StateDocuments,
    group: str,
    model: str,
    run: DagRun,
    *,
    version: int | None,
    labelled: dict[str, int],
) -> Attempt:
    """Return the record of `version`, with its label among `labelled`."""
    report = None if version is None else validation_results.read(documents, group, model, version)
    return Attempt(
        run=run,
        version=version,
        fingerprint="" if report is None else report.fingerprint,
        accuracy=None if report is None else worst_metrics(report).get("accuracy"),
        verdict="none" if report is None else report.verdict.value,
        label=next((label for label, number in labelled.items() if number == version), ""),
    )


def moves(documents: StateDocuments, group: str, model: str) -> tuple[Move, ...]:
    """Return the moves of `stable` and the rejections, oldest first."""
    return tuple(
        Move(entry.at[11:19], entry.action.value, entry.version, entry.reason)
        for entry in records.history(documents, group, model)
        if entry.action in _SHOWN_ACTIONS
    )
