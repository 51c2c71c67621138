"""A token per model that changes whenever a version appears or goes, from one small document.

S3 cannot change two objects in one step. So a writer announces a change before it makes it and completes it after.
While a change is announced, the token includes the ETag of that version's manifest: a crash between the two steps hides
no version from a reader of the token.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tfs_deploy.clock import Clock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.names import check_model_name, served_number
from tfs_deploy.store.documents import update
from tfs_deploy.store.object_store.address import manifest_name
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.objects import Objects

log = logging.getLogger(__name__)

# The change follows its announcement within a request or two; the writer of an older announcement is dead.
_ANNOUNCED_FOR = timedelta(hours=1)
# Folders listed of a model without the document, and how many of the newest may still be incomplete.
_LISTED_FOLDERS = 1000
_NEWEST_FOLDERS = 8


@dataclass(frozen=True, slots=True)
class AnnouncedChange:
    """A version that is about to appear or go; ``at`` is ISO 8601 in UTC."""

    version: int
    at: str


@dataclass(frozen=True, slots=True)
class AnnouncedChanges:
    """The document ``tips/<model>``; ``highest`` is the highest version that ever was announced."""

    highest: int = 0
    announced: tuple[AnnouncedChange, ...] = ()


class ChangeTokens:
    """Reads the change tokens of all models and changes them."""

    def __init__(self, objects: Objects, documents: S3StateDocuments, clock: Clock) -> None:
        self._objects = objects
        self._documents = documents
        self._clock = clock

    def token(self, model: str) -> str:
        """Return the token of `model`, ``""`` for an unknown one."""
        found = self._documents.read_as(AnnouncedChanges, _key(check_model_name(model)))
        if found is None:
            return self._token_of_copied_versions(model)
        changes, tag = found
        manifests = [self._objects.head(manifest_name(model, change.version)) for change in changes.announced]
        return _digest([tag, *(head.etag if head else "-" for head in manifests)])

    def announce(self, model: str, version: int) -> None:
        """Note that `version` is about to appear or go."""
        now = self._clock.now()

        def add(changes: AnnouncedChanges) -> AnnouncedChanges:
            others = [other for other in changes.announced if other.version != version and not _is_old(other, now)]
            announced = (*others, AnnouncedChange(version, now.isoformat()))
            return AnnouncedChanges(max(changes.highest, version), announced)

        self._update(model, add)

    def complete(self, model: str, version: int) -> None:
        """Drop the announcement of `version`, which saves every reader a request."""

        def remove(changes: AnnouncedChanges) -> AnnouncedChanges:
            others = tuple(other for other in changes.announced if other.version != version)
            return AnnouncedChanges(changes.highest, others)

        try:
            self._update(model, remove)
        except TFSDeployError as error:
            log.warning("Version %s of model %s stays announced: %s", version, model, error)

    def _update(self, model: str, change: Callable[[AnnouncedChanges], AnnouncedChanges]) -> None:
        update(self._documents, _key(model), AnnouncedChanges, change, default=AnnouncedChanges(), clock=self._clock)

    def _token_of_copied_versions(self, model: str) -> str:
        """Return a token for versions that were copied into the bucket without the documents.

        Copies may be incomplete, so the token covers the manifests of the newest folders. Costs one listing and one
        request for each of these.
        """
        names = list(self._objects.folders(f"{model}/", limit=_LISTED_FOLDERS))
        newest = sorted({number for name in names if (number := served_number(name)) and number > 0})[-_NEWEST_FOLDERS:]
        heads = [self._objects.head(manifest_name(model, number)) for number in newest]
        return _digest(["copy", *names, *(head.etag if head else "-" for head in heads)]) if names else ""


def _key(model: str) -> str:
    return f"tips/{model}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _is_old(change: AnnouncedChange, now: datetime) -> bool:
    return now - datetime.fromisoformat(change.at) > _ANNOUNCED_FOR
