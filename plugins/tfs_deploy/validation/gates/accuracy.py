"""Gate `accuracy`: right answers on a labelled set reach a floor, and the version that is live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from tfs_deploy.errors import Inconclusive, InvalidInput, Permanent, ValidationFailed
from tfs_deploy.savedmodel.labelled import LabelledSet, read_labelled
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec, check_inputs, covers, shape_text
from tfs_deploy.validation.gate import Candidate, Gate, ModelFiles, Outcome, ServedVersion, Worse, read_gate_file
from tfs_deploy.validation.report import Verdict

_Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
# Two shares of right answers that differ by less than this are the same: it is below one answer in ten million.
_SAME = 1e-9


# A struct, not a dataclass: a misspelt key must be an error here, or e.g. the floor would be silently missing.
class AccuracyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of right answers on a labelled set must reach `floor` and the live version's share.

    `file` is an .npz with one array per input and `labels`; `output` names the output that is compared (argmax over
    its last axis where it has one more axis than the labels). `allowed_drop` is how far below the live version is
    still accepted; `compare_live` switches that comparison off.
    """

    file: str
    output: str = ""
    signature: str = DEFAULT_SIGNATURE
    floor: _Fraction = 0.0
    compare_live: bool = True
    allowed_drop: _Fraction = 0.0
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256


@dataclass(frozen=True, slots=True)
class LabelledOutput:
    """The labelled examples, and the output that is compared with the labels."""

    examples: LabelledSet
    output: str

    def batches(self, size: int) -> list[slice]:
        """Return the rows of each batch."""
        return [slice(start, min(start + size, len(self.examples))) for start in range(0, len(self.examples), size)]


class AccuracyGate(Gate[AccuracyOptions, LabelledOutput]):
    """Measure the version, and the live one on the same examples."""

    name = "accuracy"
    options = AccuracyOptions
    default = None
    paths = ("file",)
    metrics: ClassVar[Mapping[str, Worse]] = {"accuracy": Worse.LOWER, "live_accuracy": Worse.LOWER}

    def prepare(self, options: AccuracyOptions, files: ModelFiles) -> LabelledOutput:
        """Return the labelled set, which fits the inputs of the signature and the output."""
        remedy = "Set accuracy.signature in the gates file to one of those."
        signature = files.signature(options.signature, where="The accuracy gate", remedy=remedy)
        output = _output_name(signature, options)
        prepared = LabelledOutput(read_gate_file(read_labelled, options.file), output)
        examples, batches = prepared.examples, prepared.batches(options.batch_size)
        for rows in (batches[0], batches[-1]):  # the last one may be shorter
            inputs = {alias: array[rows] for alias, array in examples.inputs.items()}
            check_inputs(signature, inputs, where=f"labelled set {options.file}")
            shape = examples.labels[rows].shape
            _check_labels(examples.labels, shape, signature.outputs[output], output, options.file)
        return prepared

    def check(self, options: AccuracyOptions, prepared: LabelledOutput, candidate: Candidate) -> Outcome:
        """Compare the share of right answers with the floor, then with the live version's."""
        share = _share(candidate, options, prepared)
        measured = {"accuracy": share}
        examples, live = len(prepared.examples), candidate.live
        if share < options.floor - _SAME:
            detail = f"accuracy {share:.4f} is below the floor {options.floor:.4f} on {examples} examples"
            return Outcome(Verdict.FAIL, detail, measured)
        if options.compare_live and live is not None and live.version != candidate.version:
            live_share = measured["live_accuracy"] = _live_share(live, options, prepared)
            if share < live_share - options.allowed_drop - _SAME:
                allowed = f" (allowed drop {options.allowed_drop:g})" if options.allowed_drop else ""
                compared = f"accuracy {share:.4f} against {live_share:.4f}"
                detail = f"worse than version {live.version} with {compared}{allowed} on {examples} examples"
                return Outcome(Verdict.FAIL, detail, measured)
        return Outcome(Verdict.PASS, f"accuracy {share:.4f} on {examples} examples", measured)

    def compares_live(self, options: AccuracyOptions) -> bool:
        """Tell whether the gates file left the comparison on."""
        return options.compare_live


def _output_name(signature: Signature, options: AccuracyOptions) -> str:
    """Return the output to compare: the one that the gates file names, or the only one there is."""
    names = sorted(signature.outputs)
    if options.output in names:
        return options.output
    if not options.output and len(names) == 1:
        return names[0]
    raise InvalidInput(
        f"The accuracy gate cannot tell which output of signature {options.signature!r} to compare with the labels "
        f"(it names {options.output!r}; there are {', '.join(names)}).",
        "Set accuracy.output in the gates file.",
    )


def _check_labels(labels: np.ndarray, shape: tuple[int, ...], spec: TensorSpec, output: str, file: str) -> None:
    """Raise InvalidInput if the answers of `spec` to a batch, whose labels have `shape`, can never equal `labels`."""
    where, but = f"The labels of {file!r}", f"but output {output!r} is {spec}"
    remedy = "Set accuracy.output to class scores (one axis more than the labels) or to what the labels hold."
    text = spec.dtype == "DT_STRING"
    if labels.dtype.kind not in ("SU" if text else "biufc"):
        raise InvalidInput(f"{where} have the dtype {labels.dtype}, {but}.", remedy)
    if covers(spec.shape, shape):
        return  # compared one by one
    scores = spec.shape is not None and covers(spec.shape[:-1], shape) and not text
    if spec.shape is None or not scores or spec.dtype.startswith("DT_COMPLEX"):
        raise InvalidInput(f"{where} have the shape {shape_text((None, *shape[1:]))}, {but}.", remedy)
    if labels.dtype.kind == "c" or not np.array_equal(labels, np.floor(labels)):
        raise InvalidInput(f"{where} are no class numbers, {but}.", remedy)
    classes = spec.shape[-1]
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        raise InvalidInput(
            f"{where} reach from {labels.min()} to {labels.max()}, {but}: its classes are 0 to {classes - 1}.",
            "Number the labels from 0, in the order of the model's classes.",
        )


def _live_share(live: ServedVersion, options: AccuracyOptions, prepared: LabelledOutput) -> float:
    """Return the share of the live version, whose errors say nothing about the version under validation."""
    try:
        return _share(live, options, prepared)
    except Permanent as error:
        raise Inconclusive(
            f"live version {live.version} could not be compared with: {error.cause}",
            "Validate again; if the two can never be compared, set accuracy.compare_live to false.",
        ) from error


def _share(version: ServedVersion, options: AccuracyOptions, prepared: LabelledOutput) -> float:
    right = 0
    examples, output = prepared.examples, prepared.output
    for rows in prepared.batches(options.batch_size):
        inputs = {alias: array[rows] for alias, array in examples.inputs.items()}
        answer = version.predict(inputs, options.signature)
        if output not in answer.outputs:
            raise ValidationFailed(
                f"No output {output!r} came back, only {', '.join(sorted(answer.outputs))}.",
                "Read the signature that this replica serves.",
            )
        right += _right(answer.outputs[output], examples.labels[rows], output)
    return right / len(examples)


def _right(answers: np.ndarray, labels: np.ndarray, output: str) -> int:
    if answers.ndim == labels.ndim + 1 and answers.dtype != object:
        # NaN scores would win every argmax: a row that holds one is a wrong answer, not class 0.
        usable = ~np.isnan(answers.astype(np.float64)).any(axis=-1)
        return int(np.sum((np.argmax(answers, axis=-1) == labels) & usable))
    if answers.shape != labels.shape:
        # The signature leaves this shape open, so the file is at fault as likely as the model.
        raise Inconclusive(
            f"Output {output!r} has the shape {answers.shape}, which cannot be compared with labels {labels.shape}.",
            "Set accuracy.output to class scores (one axis more than the labels) or to class numbers.",
        )
    if answers.dtype == object:
        pairs = zip(answers.ravel().tolist(), labels.ravel().tolist(), strict=True)
        return sum(_encoded(answer) == _encoded(label) for answer, label in pairs)
    return int(np.sum(answers == labels))


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
