"""The versions that a model server needs: from its group's desired state, or the highest of each model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from tfs_deploy.deployment import desired_state, sync_requests
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState
from tfs_deploy.deployment.sync_requests import SyncRequests
from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import from_json
from tfs_deploy.names import PLACEHOLDER, check_listed_version, check_model_name, check_version
from tfs_deploy.store.protocol import StateDocuments, Store
from tfs_deploy.sync.plan import RequiredVersions, VersionName


class RequiredVersionsSource(Protocol):
    """Source of the required versions; the cost of `read` does not depend on the number of old versions."""

    @property
    def state(self) -> DesiredState | None:
        """Return the desired state that was read last; None where there is none."""

    def read(self) -> RequiredVersions | None:
        """Return the required versions, None if the store names none yet; raise what the store raises."""


class DesiredStateVersions:
    """Follows the desired state and the sync requests of a serving group, with two small reads."""

    def __init__(self, documents: StateDocuments, group: str) -> None:
        self._documents = documents
        self._group = group
        self._tags: tuple[str | None, str | None] = (None, None)
        self._required: RequiredVersions | None = None
        self.state: DesiredState | None = None

    def read(self) -> RequiredVersions | None:
        # The requests first: a deployer cancels its request after it has written the version into the desired state.
        wanted, requests_tag = sync_requests.read(self._documents, self._group)
        document = self._documents.read(desired_state.key(self._group))
        tags = (None if document is None else document.tag, requests_tag)
        if tags != self._tags:
            state = None if document is None else from_json(DesiredState, document.body)
            known = state is not None or wanted.versions
            # An unusable state raises here, before it replaces the previous one.
            required = with_requests(required_by(state or DesiredState()), wanted) if known else None
            self.state, self._required, self._tags = state, required, tags
        return self._required


class LatestModeVersions:
    """Follows the highest complete version of models, with one small read each and a listing after a change."""

    def __init__(self, store: Store, models: Iterable[str]) -> None:
        self._store = store
        self._models = tuple(check_model_name(model) for model in dict.fromkeys(models))
        self._tokens: dict[str, str] = {}
        self._highest: dict[str, int] = {}
        self.state: DesiredState | None = None
        if not self._models:
            raise InvalidInput("No model to follow is given.", "Name at least one with --latest.")

    def read(self) -> RequiredVersions:
        for model in self._models:
            # The token first: the next pass then sees a version that appears in between.
            token = self._store.change_token(model)
            if self._tokens.get(model) == token:
                continue
            versions = self._store.versions(model)
            self._tokens[model] = token
            # The server keeps its version when the store has none left.
            if versions:
                self._highest[model] = versions[-1]
        return RequiredVersions(
            models=self._models,
            versions=tuple(VersionName(model, version) for model, version in sorted(self._highest.items())),
            highest=dict(self._highest),
            without=tuple(model for model in self._models if model not in self._highest),
        )


def required_by(state: DesiredState) -> RequiredVersions:
    """Return every version that `state` lists or labels, a label that is about to move included.

    `stable` first, then `previous`, then other labels, then the rest from the newest on: a server that starts needs
    what answers, and a deploy waits for the newest.
    """
    ranked: list[tuple[int, int, VersionName]] = []
    for model, wanted in state.models.items():
        check_model_name(model)
        labels = [*wanted.labels.items(), *wanted.current_labels.items()]
        ranks = {version: 3 for version in wanted.versions if version != PLACEHOLDER}
        for label, version in labels:
            rank = {STABLE: 0, PREVIOUS: 1}.get(label, 2)
            ranks[version] = min(rank, ranks.get(version, 3))
        ranked += [(rank, -check_version(version), VersionName(model, version)) for version, rank in ranks.items()]
    models = tuple(sorted(state.models))
    placeholders = (VersionName(model, PLACEHOLDER) for model in models if PLACEHOLDER in state.models[model].versions)
    return RequiredVersions(models, tuple(name for _, _, name in sorted(ranked)), tuple(placeholders))


def with_requests(required: RequiredVersions, wanted: SyncRequests) -> RequiredVersions:
    """Return `required` with what deployers wait for behind it: what answers today is more urgent."""
    names = [VersionName(check_model_name(each.model), check_listed_version(each.version)) for each in wanted.versions]
    versions = (name for name in names if name.version != PLACEHOLDER)
    placeholders = (name for name in names if name.version == PLACEHOLDER)
    return replace(
        required,
        models=tuple(sorted({*required.models, *(name.model for name in names)})),
        versions=tuple(dict.fromkeys((*required.versions, *versions))),
        placeholders=tuple(sorted({*required.placeholders, *placeholders})),
    )
