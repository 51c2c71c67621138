"""How a replica differs from the desired state of a model: every difference, as values, the label `stable` first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredModel, DesiredState, LabelMove
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus
from tfs_deploy.names import plural

CANARY = "canary"


class DifferenceKind(str, Enum):
    """What differs; in the order in which differences of one replica are listed, after `stable`."""

    LABEL_ON_OTHER_VERSION = "label_on_other_version"
    LABEL_MISSING = "label_missing"
    LABEL_NOT_DESIRED = "label_not_desired"
    VERSION_MISSING = "version_missing"
    VERSION_FOREIGN = "version_foreign"
    UNREACHABLE = "unreachable"


_LABEL_KINDS = (DifferenceKind.LABEL_ON_OTHER_VERSION, DifferenceKind.LABEL_MISSING, DifferenceKind.LABEL_NOT_DESIRED)


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference of one replica.

    `label` is empty for a difference of a version. `desired` and `observed` are versions, None for no version.
    `detail` says what differs, `sentence` also on which replica and for which model.
    """

    replica: str
    model: str
    kind: DifferenceKind
    label: str
    desired: int | None
    observed: int | None
    detail: str
    sentence: str

    @property
    def order(self) -> tuple[int, str, str, int, str]:
        """Return the sort key: `stable`, the other labels, versions, replicas that did not answer."""
        rank = 3 if self.kind is DifferenceKind.UNREACHABLE else 2
        if self.kind in _LABEL_KINDS:
            rank = 0 if self.label == STABLE else 1
        return rank, self.label, self.model, self.desired or self.observed or 0, self.replica


def labels_to_ask(state: DesiredState) -> tuple[str, ...]:
    """Return the labels that a status asks every replica for.

    They are the labels of any model of the group and `stable`, `previous` and `canary`. TF Serving has no RPC that
    lists labels, so a label that was set by hand under another name stays undetected.
    """
    desired = {label for model in state.models.values() for label in model.labels}
    moving = {label for move in open_moves(state).values() for label in move.labels}
    return tuple(sorted({STABLE, PREVIOUS, CANARY} | desired | moving))


def open_moves(state: DesiredState) -> dict[str, LabelMove]:
    """Return the moves of labels that have begun and not ended, by model."""
    return {name: model.move for name, model in sorted(state.models.items()) if model.move is not None}


def differences(
    desired: DesiredModel | None,
    status: GroupStatus,
    *,
    published: Collection[int],
    moving: Mapping[str, int] | None = None,
    unloading: Collection[int] = (),
    loaded: Collection[int] = (),
) -> tuple[Difference, ...]:
    """Return every difference between `desired` (None: not a model of the group) and what the replicas serve.

    `moving` holds all labels of the model after a move that has begun: until it ends, a label may answer as before the
    move or as after it. Versions in `published` or `unloading` that are not desired any more are about to be unloaded,
    so they are no difference. `loaded` are the versions that were AVAILABLE on every replica once; any other desired
    version may still be loading. A replica that did not answer gives one difference, UNREACHABLE.
    """
    expected = _Expected(status.model, desired, moving, frozenset(published) | frozenset(unloading), frozenset(loaded))
    every = (difference for replica in status.replicas for difference in _of_replica(replica, expected))
    return ordered(every)


def ordered(every: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return the differences of any models and replicas in the order in which they are listed."""
    return tuple(sorted(every, key=lambda difference: difference.order))


def drift_sentence(every: Iterable[Difference]) -> str:
    """Return the first drift and the number of the others as one sentence; empty without any."""
    drift = ordered(difference for difference in every if difference.kind is not DifferenceKind.UNREACHABLE)
    if not drift:
        return ""
    sentence, more = drift[0].sentence, len(drift) - 1
    return f"{sentence.rstrip('.')}, and {plural(more, 'more difference')}." if more else sentence


@dataclass(frozen=True, slots=True)
class _Expected:
    model: str
    desired: DesiredModel | None
    moving: Mapping[str, int] | None
    leaving: frozenset[int]
    loaded: frozenset[int]

    @property
    def labels(self) -> Mapping[str, int]:
        return self.desired.labels if self.desired is not None else {}

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(self.desired.versions if self.desired is not None else ())

    def answers(self, label: str) -> set[int | None]:
        """Return the versions that `label` may answer from."""
        before = self.labels.get(label)
        return {before} if self.moving is None else {before, self.moving.get(label)}


def _of_replica(replica: ReplicaStatus, expected: _Expected) -> Iterator[Difference]:
    if replica.error:
        yield _difference(replica, expected, DifferenceKind.UNREACHABLE, text=f"it did not answer: {replica.error}")
        return
    for label in sorted({*expected.labels, *(expected.moving or {}), *replica.labels}):
        yield from _of_label(replica, expected, label)
    available = replica.available()
    for version in sorted((expected.versions & expected.loaded) - available):
        text = f"version {version} should be AVAILABLE and is {_state(replica, version)}"
        yield _difference(replica, expected, DifferenceKind.VERSION_MISSING, desired=version, text=text)
    for version in sorted(available - expected.versions - expected.leaving):
        text = f"version {version} is AVAILABLE and was not published here"
        yield _difference(replica, expected, DifferenceKind.VERSION_FOREIGN, observed=version, text=text)


def _of_label(replica: ReplicaStatus, expected: _Expected, label: str) -> Iterator[Difference]:
    version, answer = expected.labels.get(label), replica.labels.get(label)
    if answer in expected.answers(label):
        return
    if version is None:
        # The label may also be the new one of a move that has begun, and answer a third version.
        version = (expected.moving or {}).get(label)
    if answer is None:
        kind, text = (
            DifferenceKind.LABEL_MISSING,
            f"label {label!r} should answer version {version} and answers nothing",
        )
    elif version is None:
        kind, text = DifferenceKind.LABEL_NOT_DESIRED, f"label {label!r} answers version {answer} and is not desired"
    else:
        kind = DifferenceKind.LABEL_ON_OTHER_VERSION
        text = f"label {label!r} should answer version {version} and answers {answer}"
    yield _difference(replica, expected, kind, label=label, desired=version, observed=answer, text=text)


def _difference(
    replica: ReplicaStatus,
    expected: _Expected,
    kind: DifferenceKind,
    *,
    text: str,
    label: str = "",
    desired: int | None = None,
    observed: int | None = None,
) -> Difference:
    if kind is DifferenceKind.UNREACHABLE:
        sentence = f"Replica {replica.target} could not be compared for model {expected.model!r}: {text}"
    else:
        sentence = f"Replica {replica.target} has drifted from the desired state of model {expected.model!r}: {text}."
    return Difference(replica.target, expected.model, kind, label, desired, observed, text, sentence)


def _state(replica: ReplicaStatus, version: int) -> str:
    return next((row.state.value for row in replica.versions if row.version == version), "not there")
