"""Where an agent learns what its model server needs: a group's desired state, or the highest versions of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from tfs_deploy.deployment import desired_state, sync_requests
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredState
from tfs_deploy.deployment.sync_requests import SyncRequests
from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import from_json
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.store.protocol import StateDocuments, Store
from tfs_deploy.sync.plan import Need, VersionName


class Needs(Protocol):
    """Something that knows what is needed; `read` costs the same however many old versions there are."""

    @property
    def state(self) -> DesiredState | None:
        """Return the desired state that was read last; None where there is none."""

    def read(self) -> Need | None:
        """Return what is needed now, None if nobody has said so yet; raise what the store raises."""


class DesiredStateVersions:
    """Follows the desired state of a serving group, and what its deployers wait for: two small reads."""

    def __init__(self, documents: StateDocuments, group: str) -> None:
        self._documents = documents
        self._group = group
        self._tags: tuple[str | None, str | None] = (None, None)
        self._need: Need | None = None
        self.state: DesiredState | None = None

    def read(self) -> Need | None:
        document = self._documents.read(desired_state.key(self._group))
        wanted, requests_tag = sync_requests.read(self._documents, self._group)
        tags = (None if document is None else document.tag, requests_tag)
        if tags != self._tags:
            state = None if document is None else from_json(DesiredState, document.body)
            known = state is not None or wanted.versions
            # A state that cannot be used raises here, and then the one from before still holds.
            need = with_requests(need_of(state or DesiredState()), wanted) if known else None
            self.state, self._need, self._tags = state, need, tags
        return self._need


class LatestModeVersions:
    """Follows the highest complete version of models: one small read each, and a listing after a change."""

    def __init__(self, store: Store, models: Iterable[str]) -> None:
        self._store = store
        self._models = tuple(check_model_name(model) for model in dict.fromkeys(models))
        self._tokens: dict[str, str] = {}
        self._highest: dict[str, int] = {}
        self.state: DesiredState | None = None
        if not self._models:
            raise InvalidInput("No model to follow is given.", "Name at least one with --latest.")

    def read(self) -> Need:
        for model in self._models:
            # The token first: the next pass then sees a version that appears in between.
            token = self._store.change_token(model)
            if self._tokens.get(model) == token:
                continue
            versions = self._store.versions(model)
            self._tokens[model] = token
            # A store that shows nothing any more says nothing about what the server has: it keeps that.
            if versions:
                self._highest[model] = versions[-1]
        return Need(
            models=self._models,
            versions=tuple(VersionName(model, version) for model, version in sorted(self._highest.items())),
            highest=dict(self._highest),
            without=tuple(model for model in self._models if model not in self._highest),
        )


def need_of(state: DesiredState) -> Need:
    """Return every version that `state` lists or labels, a label that is about to move included.

    `stable` first, then `previous`, then other labels, then the rest from the newest on: a server that starts needs
    what answers, and a deploy waits for the newest.
    """
    ranked: list[tuple[int, int, VersionName]] = []
    for model, wanted in state.models.items():
        check_model_name(model)
        labels = [*wanted.labels.items()]
        if state.move is not None and state.move.model == model:
            labels += state.move.labels.items()
        ranks = {version: 3 for version in wanted.versions}
        for label, version in labels:
            rank = {STABLE: 0, PREVIOUS: 1}.get(label, 2)
            ranks[version] = min(rank, ranks.get(version, 3))
        ranked += [(rank, -check_version(version), VersionName(model, version)) for version, rank in ranks.items()]
    return Need(tuple(sorted(state.models)), tuple(name for _, _, name in sorted(ranked)))


def with_requests(need: Need, wanted: SyncRequests) -> Need:
    """Return `need` with what deployers wait for behind it: what answers today is more urgent."""
    names = [VersionName(check_model_name(each.model), check_version(each.version)) for each in wanted.versions]
    return replace(
        need,
        models=tuple(sorted({*need.models, *(name.model for name in names)})),
        versions=tuple(dict.fromkeys((*need.versions, *names))),
    )
