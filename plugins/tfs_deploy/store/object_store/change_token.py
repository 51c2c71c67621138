"""A token per model that changes whenever a version appears or goes, from one small document.

An object cannot be changed together with another one, so a change is announced before it is made and settled after:
while it is announced, the token also says whether that version's manifest is there. So no crash between the two hides
a version from those who look at the token.
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
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.layout import manifest_name
from tfs_deploy.store.object_store.objects import Objects

log = logging.getLogger(__name__)

# An announced change follows within a request or two; one this old died.
_ANNOUNCED_FOR = timedelta(hours=1)
# Enough to tell that a model that others copied there is not unknown; and the newest, which may still be arriving.
_LOOK_AT = 1000
_NEWEST = 8


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
    """Reads and moves the tips of all models."""

    def __init__(self, objects: Objects, documents: S3StateDocuments, clock: Clock) -> None:
        self._objects = objects
        self._documents = documents
        self._clock = clock

    def token(self, model: str) -> str:
        """Return the token of `model`, ``""`` for an unknown one."""
        found = self._documents.read_as(AnnouncedChanges, _key(check_model_name(model)))
        if found is None:
            return self._token_of_copied_versions(model)
        tip, tag = found
        manifests = [self._objects.head(manifest_name(model, one.version)) for one in tip.announced]
        return _digest([tag, *(head.etag if head else "-" for head in manifests)])

    def announce(self, model: str, version: int) -> None:
        """Say that `version` is about to appear or go."""
        now = self._clock.now()

        def change(tip: AnnouncedChanges) -> AnnouncedChanges:
            others = [one for one in tip.announced if one.version != version and not _is_old(one, now)]
            announced = (*others, AnnouncedChange(version, now.isoformat()))
            return AnnouncedChanges(max(tip.highest, version), announced)

        self._change(model, change)

    def complete(self, model: str, version: int) -> None:
        """Say that what was announced for `version` is done; only spares the readers a request each."""

        def change(tip: AnnouncedChanges) -> AnnouncedChanges:
            return AnnouncedChanges(tip.highest, tuple(one for one in tip.announced if one.version != version))

        try:
            self._change(model, change)
        except TFSDeployError as error:
            log.warning("Version %s of model %s stays announced: %s", version, model, error)

    def _change(self, model: str, change: Callable[[AnnouncedChanges], AnnouncedChanges]) -> None:
        update(self._documents, _key(model), AnnouncedChanges, change, default=AnnouncedChanges(), clock=self._clock)

    def _token_of_copied_versions(self, model: str) -> str:
        """Return a token for versions that were copied there without the documents.

        A copy is not one step, so the newest folders may be there before their manifests. Costs one listing, and a
        request for each of those.
        """
        names = list(self._objects.folders(f"{model}/", limit=_LOOK_AT))
        newest = sorted({number for name in names if (number := served_number(name)) and number > 0})[-_NEWEST:]
        heads = [self._objects.head(manifest_name(model, number)) for number in newest]
        return _digest(["copy", *names, *(head.etag if head else "-" for head in heads)]) if names else ""


def _key(model: str) -> str:
    return f"tips/{model}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _is_old(one: AnnouncedChange, now: datetime) -> bool:
    return now - datetime.fromisoformat(one.at) > _ANNOUNCED_FOR
