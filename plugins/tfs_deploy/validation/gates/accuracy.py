"""Gate `accuracy`: right answers on a labelled set reach a floor, and the version that is live."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfs_deploy.errors import Inconclusive, InvalidInput, Permanent, ValidationFailed
from tfs_deploy.savedmodel.labelled import LabelledSet
from tfs_deploy.serving.protocol import Prediction
from tfs_deploy.serving.signature import Signature, check_inputs
from tfs_deploy.validation.candidate import Candidate, LiveVersion, ask
from tfs_deploy.validation.config import AccuracyGate, Gates
from tfs_deploy.validation.report import Check, Verdict

NAME = "accuracy"
# Two shares of right answers that differ by less than this are the same: it is below one answer in ten million.
_SAME = 1e-9


def fit_labelled(labelled: LabelledSet, gate: AccuracyGate, signatures: dict[str, Signature]) -> None:
    """Raise InvalidInput if the labelled set cannot be put to a model with `signatures`."""
    signature = signatures.get(gate.signature)
    if signature is None:
        raise InvalidInput(
            f"The accuracy gate asks signature {gate.signature!r}, which the model lacks "
            f"(it has {', '.join(sorted(signatures))}).",
            "Name one of those in the gates file.",
        )
    first = {alias: array[:1] for alias, array in labelled.inputs.items()}
    check_inputs(signature, first, where=f"labelled set {gate.file}")
    output_name(signature, gate)


def output_name(signature: Signature, gate: AccuracyGate) -> str:
    """Return the output to compare: the one that the gate names, or the only one there is."""
    names = sorted(signature.outputs)
    if gate.output in names:
        return gate.output
    if not gate.output and len(names) == 1:
        return names[0]
    raise InvalidInput(
        f"The accuracy gate cannot tell which output of signature {gate.signature!r} to compare with the labels "
        f"(it names {gate.output!r}; there are {', '.join(names)}).",
        "Set accuracy.output in the gates file.",
    )


def check_accuracy(candidate: Candidate, gates: Gates) -> Check | None:
    """Measure this version, and the live one on the same examples."""
    gate, labelled = gates.accuracy, candidate.material.labelled
    if gate is None or labelled is None:
        return None
    output = output_name(candidate.material.manifest.signatures[gate.signature], gate)
    share = _share(labelled, gate, output, lambda inputs: candidate.predict(inputs, gate.signature))
    measured = {"accuracy": share}
    target = candidate.client.target
    if share < gate.floor - _SAME:
        detail = f"accuracy {share:.4f} is below the floor {gate.floor:.4f} on {len(labelled.labels)} examples"
        return Check(NAME, target, Verdict.FAIL, detail, measured)
    if gate.compare_live and candidate.live is not None and candidate.live.version != candidate.version:
        live = candidate.live
        live_share = _live_share(candidate, live, labelled, gate, output)
        measured["live_accuracy"] = live_share
        if share < live_share - gate.allowed_drop - _SAME:
            allowed = f" (allowed drop {gate.allowed_drop:g})" if gate.allowed_drop else ""
            detail = f"accuracy {share:.4f} is below the {live_share:.4f} of live version {live.version}{allowed}"
            return Check(NAME, target, Verdict.FAIL, detail, measured)
    detail = f"accuracy {share:.4f} on {len(labelled.labels)} examples"
    return Check(NAME, target, Verdict.PASS, detail, measured)


def _live_share(
    candidate: Candidate, live: LiveVersion, labelled: LabelledSet, gate: AccuracyGate, output: str
) -> float:
    """Return the share of the live version; what is wrong with that one is no fault of the version under validation."""

    def predict(inputs: dict[str, np.ndarray]) -> Prediction:
        return ask(live.client, candidate.model, live.version, inputs, gate.signature, candidate.timeout)

    try:
        return _share(labelled, gate, output, predict)
    except Permanent as error:
        raise Inconclusive(
            f"live version {live.version} could not be compared with: {error.cause}",
            "Validate again; if the two can never be compared, set accuracy.compare_live to false.",
        ) from error


def _share(
    labelled: LabelledSet, gate: AccuracyGate, output: str, predict: Callable[[dict[str, np.ndarray]], Prediction]
) -> float:
    right = 0
    count = len(labelled.labels)
    for start in range(0, count, gate.batch_size):
        rows = slice(start, start + gate.batch_size)
        answer = predict({alias: array[rows] for alias, array in labelled.inputs.items()})
        if output not in answer.outputs:
            raise ValidationFailed(
                f"No output {output!r} came back, only {', '.join(sorted(answer.outputs))}.",
                "Look at the signature that this replica serves.",
            )
        right += _right(answer.outputs[output], labelled.labels[rows], output)
    return right / count


def _right(answers: np.ndarray, labels: np.ndarray, output: str) -> int:
    if answers.ndim == labels.ndim + 1:
        # NaN scores would win every argmax: a row that holds one is a wrong answer, not class 0.
        usable = ~np.isnan(answers.astype(np.float64)).any(axis=-1)
        return int(np.sum((np.argmax(answers, axis=-1) == labels) & usable))
    if answers.shape != labels.shape:
        raise InvalidInput(
            f"Output {output!r} has the shape {answers.shape}, which cannot be compared with labels {labels.shape}.",
            "Set accuracy.output to class scores (one axis more than the labels) or to class numbers.",
        )
    if answers.dtype == object:
        told = np.array([item.decode() if isinstance(item, bytes) else str(item) for item in answers.ravel()])
        return int(np.sum(told == labels.astype(str).ravel()))
    return int(np.sum(answers == labels))
