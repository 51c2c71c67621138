"""The desired state of a serving group: one document, changed model by model with compare-and-set.

TF Serving has no RPC that reads its config back, and a reload replaces all of it (contract 5.3). So this document holds
what the group should serve, and every reload sends all of it. A second document tells which generation was sent last:
whoever waits for the lease reads there whether his change was in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfs_deploy.deployment.records import DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, ModelServerError, TFSDeployError, Transient, Unreachable
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.serving.config import ModelEntry, from_text
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments

STABLE = "stable"
PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class LabelMove:
    """A move of labels that has begun: written before the first replica is moved, removed after the record.

    `labels` are all labels of the model afterwards. `record` is the record to append, its `generation` that of the
    state that the move was written with. With `reverting` the replicas are on their way back to the labels from before.
    """

    labels: dict[str, int]
    record: DeploymentRecord
    reverting: bool = False


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """What every replica should serve of one model.

    `versions` are the ones to load; `names.PLACEHOLDER` among them stands in until the first version of a new model is
    loaded. `unloading` are versions on their way out, which must not be loaded again. `generation` is that of the
    group's state that changed the config of this model last.
    """

    base_path: str
    versions: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)
    move: LabelMove | None = None
    unloading: tuple[int, ...] = ()
    generation: int = 0

    def with_versions(self, *versions: int) -> DesiredModel:
        """Return this with `versions` listed too."""
        return replace(self, versions=tuple(sorted({*self.versions, *versions})))

    def without(self, *versions: int) -> DesiredModel:
        """Return this with `versions` no longer listed."""
        return replace(self, versions=tuple(version for version in self.versions if version not in versions))

    def with_labels(self, labels: dict[str, int]) -> DesiredModel:
        """Return this with `labels` in place of its own."""
        return replace(self, labels=labels)

    def with_unloading(self, *versions: int) -> DesiredModel:
        """Return this with `versions` on their way out."""
        return replace(self.without(*versions), unloading=tuple(sorted({*self.unloading, *versions})))

    def forgetting(self, *versions: int) -> DesiredModel:
        """Return this with `versions` no longer on their way out: they are gone."""
        return replace(self, unloading=tuple(version for version in self.unloading if version not in versions))

    @property
    def real_versions(self) -> tuple[int, ...]:
        """The versions without the placeholder."""
        return tuple(version for version in self.versions if version != PLACEHOLDER)

    @property
    def config(self) -> tuple[str, tuple[int, ...], Mapping[str, int]]:
        """What a reload sends of this model."""
        return self.base_path, self.versions, self.current_labels

    @property
    def current_labels(self) -> Mapping[str, int]:
        """The labels that the replicas should have now: those of an open move, unless it is being reverted."""
        return self.labels if self.move is None or self.move.reverting else self.move.labels

    @property
    def labelled(self) -> frozenset[int]:
        """The versions that a label names, before or after an open move."""
        moving = self.move.labels.values() if self.move else ()
        return frozenset({*self.labels.values(), *moving})


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything that a group should serve; `generation` counts the changes."""

    generation: int = 0
    models: dict[str, DesiredModel] = field(default_factory=dict)

    def entries(self) -> tuple[ModelEntry, ...]:
        """Return the config that every replica should run; a model without versions is left out of it."""
        # `specific` with no version unloads everything and logs a warning at each poll.
        return tuple(
            ModelEntry(name, model.base_path, model.versions, dict(model.current_labels))
            for name, model in sorted(self.models.items())
            if model.versions
        )

    def with_model(self, name: str, model: DesiredModel | None) -> DesiredState:
        """Return this with `name` set to `model`, or without it."""
        models = {key: value for key, value in self.models.items() if key != name}
        if model is not None:
            models[name] = model
        return replace(self, models=models)

    def labels(self, name: str) -> Mapping[str, int]:
        """Return the labels of model `name` before an open move, none if it is not there."""
        return self.models[name].labels if name in self.models else {}


def key(group: str) -> str:
    """Return the key of the group's state document."""
    return f"groups/{group}/desired.json"


def read(documents: StateDocuments, group: ServingGroup) -> DesiredState:
    """Return the desired state; a group that has none yet starts with the content of its start-up file, if any."""
    document = documents.read(key(group.name))
    return _initial(group) if document is None else from_json(DesiredState, document.body)


def exists(documents: StateDocuments, group: ServingGroup) -> bool:
    """Tell whether the group has a desired state of its own already."""
    return documents.read(key(group.name)) is not None


def change(
    session: GroupSession, model: str, edit: Callable[[DesiredState, DesiredModel | None], DesiredModel | None]
) -> DesiredState:
    """Replace one model of the desired state by what `edit` makes of it, and return the new state.

    `edit` gets the current state and its model (None: not there), and returns the new one (None: take it out). It may
    be called again where another writer was faster, has no side effects, and may raise to change nothing. An unchanged
    model leaves the generation as it is. Raises Contention and what `edit` raises.
    """

    documents, group = session.store.documents, session.group

    def changed(stored: DesiredState | None) -> DesiredState:
        state = _initial(group, above=read_sent(documents, group.name).generation) if stored is None else stored
        before = state.models.get(model)
        after = edit(state, before)
        if after == before:
            return state
        generation = state.generation + 1
        if after is not None and (before is None or after.config != before.config):
            after = replace(after, generation=generation)
        return replace(state.with_model(model, after), generation=generation)

    return update(documents, key(group.name), DesiredState, changed, clock=session.clock)


def _initial(group: ServingGroup, *, above: int = 0) -> DesiredState:
    """Return the state of a group without a document; a lost one must not begin with generations that were sent."""
    path = group.startup_config
    entries: tuple[ModelEntry, ...] = ()
    if path is not None and Path(path).is_file():
        entries = from_text(Path(path).read_text(encoding="utf-8"))
    models = {each.name: DesiredModel(each.base_path, each.versions, dict(each.labels)) for each in entries}
    return DesiredState(above, models)


@dataclass(frozen=True, slots=True)
class SendError:
    """Why one replica did not take the config, in a form that another process can read."""

    transient: bool
    cause: str
    remedy: str

    @classmethod
    def of(cls, error: TFSDeployError) -> SendError:
        """Return `error` as a value."""
        return cls(isinstance(error, Transient), error.cause, error.remedy)

    def to_error(self) -> TFSDeployError:
        """Return the error again, with its class as far as it matters to callers."""
        if self.transient:
            return Unreachable(self.cause, self.remedy)
        return ModelServerError(self.cause, self.remedy, code="INVALID_ARGUMENT")


@dataclass(frozen=True, slots=True)
class SentState:
    """The generation of the desired state that was sent last, to which replicas, and which of them did not take it."""

    generation: int = 0
    replicas: tuple[str, ...] = ()
    errors: dict[str, SendError] = field(default_factory=dict)
    startup_error: SendError | None = None

    def raise_errors(self) -> None:
        """Raise the error of a replica that did not take the config, if there is one."""
        for error in self.errors.values():
            raise error.to_error()

    def settles(self, generation: int, replicas: Collection[str]) -> bool:
        """Tell whether a change of `generation` needs no reload of its own on `replicas`.

        A replica that is away answers nobody. But one that refused the config may have refused the change of somebody
        else, who takes it back next.
        """
        if self.generation < generation or not set(replicas) <= set(self.replicas):
            return False
        return all(error.transient for target, error in self.errors.items() if target in replicas)

    def on(self, replicas: Collection[str]) -> SentState:
        """Return this without the errors of other replicas than `replicas`."""
        return replace(self, errors={target: error for target, error in self.errors.items() if target in replicas})


def read_sent(documents: StateDocuments, group: str) -> SentState:
    """Return what was sent last, generation 0 if nothing was."""
    document = documents.read(_sent_key(group))
    return SentState() if document is None else from_json(SentState, document.body)


def write_sent(session: GroupSession, sent: SentState) -> None:
    """Write what was sent; its caller holds the group's lease."""
    documents, key = session.store.documents, _sent_key(session.group.name)
    document = documents.read(key)
    try:
        documents.write(key, to_json(sent), expected=None if document is None else document.tag)
    except Contention:
        # Only a deployer that took over the lease writes here too, and it has sent a newer state.
        return


def _sent_key(group: str) -> str:
    return f"groups/{group}/sent.json"
