"""The desired state of a serving group: one document, changed by compare-and-set only.

TF Serving has no RPC that reads its config back, and a reload replaces all of it (contract 5.3). So this document holds
what the group should serve, and every reload sends all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfs_deploy.errors import Contention
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.serving.config import ModelEntry, from_text
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.protocol import StateDocuments

STABLE = "stable"
PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """What every replica should serve of one model."""

    base_path: str
    versions: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)

    def with_versions(self, *versions: int) -> DesiredModel:
        """Return this with `versions` listed too."""
        return replace(self, versions=tuple(sorted({*self.versions, *versions})))

    def without(self, *versions: int) -> DesiredModel:
        """Return this with `versions` no longer listed."""
        return replace(self, versions=tuple(v for v in self.versions if v not in versions))


@dataclass(frozen=True, slots=True)
class LabelMove:
    """A move of labels that has begun: written before the first replica is moved, removed after the last.

    `generation` is that of the state it was written with; the record of the move has the same one.
    """

    model: str
    labels: dict[str, int]
    action: str
    actor: str
    since: str
    generation: int


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything that a group should serve; `generation` counts the changes."""

    generation: int = 0
    models: dict[str, DesiredModel] = field(default_factory=dict)
    move: LabelMove | None = None

    def entries(self) -> tuple[ModelEntry, ...]:
        """Return the config that every replica should run."""
        return tuple(
            ModelEntry(name, model.base_path, model.versions, dict(model.labels))
            for name, model in sorted(self.models.items())
        )

    def with_model(self, name: str, model: DesiredModel | None) -> DesiredState:
        """Return this with `name` set to `model`, or without it."""
        models = {key: value for key, value in self.models.items() if key != name}
        if model is not None:
            models[name] = model
        return replace(self, models=models)

    def labels(self, name: str) -> Mapping[str, int]:
        """Return the labels of model `name`, none if it is not there."""
        return self.models[name].labels if name in self.models else {}


@dataclass(frozen=True, slots=True)
class StoredState:
    """A desired state with the tag that a compare-and-set needs; `tag` None: there is no document yet."""

    state: DesiredState
    tag: str | None


def key(group: str) -> str:
    """Return the key of the group's state document."""
    return f"groups/{group}/desired.json"


def read(documents: StateDocuments, group: ServingGroup) -> StoredState:
    """Return the desired state; a group that has none yet starts with the content of its start-up file, if any."""
    document = documents.read(key(group.name))
    if document is not None:
        return StoredState(from_json(DesiredState, document.body), document.tag)
    return StoredState(DesiredState(models=_from_startup_config(group.startup_config)), None)


def write(documents: StateDocuments, group: ServingGroup, stored: StoredState, state: DesiredState) -> StoredState:
    """Replace `stored` by `state`; raise Contention if another writer was faster."""
    if state == stored.state and stored.tag is not None:
        return stored
    changed = replace(state, generation=stored.state.generation + 1)
    try:
        tag = documents.write(key(group.name), to_json(changed), expected=stored.tag)
    except Contention as error:
        raise Contention(
            f"Another deployer changed the desired state of group {group.name!r} meanwhile.", "Try again."
        ) from error
    return StoredState(changed, tag)


def _from_startup_config(path: str | None) -> dict[str, DesiredModel]:
    if path is None or not Path(path).is_file():
        return {}
    entries = from_text(Path(path).read_text(encoding="utf-8"))
    return {entry.name: DesiredModel(entry.base_path, entry.versions, dict(entry.labels)) for entry in entries}
