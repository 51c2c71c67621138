"""Version numbers in S3: claimed by an exclusive create, from a hint upwards."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from uuid import uuid4

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Contention, CorruptModel, StoreError
from tfs_deploy.jsonable import from_json
from tfs_deploy.names import MAX_VERSION, served_number
from tfs_deploy.savedmodel.manifest import hex_of
from tfs_deploy.store.documents import update
from tfs_deploy.store.object_store.address import folder, state
from tfs_deploy.store.object_store.conditional_write_check import ConditionalWriteCheck
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.errors import PreconditionFailed
from tfs_deploy.store.object_store.objects import Objects

# So many numbers that are taken say that the hint is far behind: then all claims are listed.
_MISSES = 16
# Others that write the hint for so long have brought it further.
_HINT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Numbering:
    """The document ``numbering/<model>``: a hint at the highest number, and versions that have no claim."""

    highest: int = 0
    foreign: tuple[int, ...] = ()


class Numbers:
    """Claims of version numbers.

    The hint may be lost or behind, since the claims decide. Without it everything is listed once. Versions that were
    copied into the bucket by other means after that are noticed at their own number only.
    """

    def __init__(
        self, objects: Objects, documents: S3StateDocuments, conditional_writes: ConditionalWriteCheck, clock: Clock
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._documents = documents
        self._conditional_writes = conditional_writes

    def hint(self, model: str) -> Numbering | None:
        """Return the hint, if there is a usable one."""
        found = self._documents.read(_key(model))
        try:
            return None if found is None else from_json(Numbering, found.body)
        except CorruptModel:
            return None

    def known(self, model: str) -> Numbering:
        """Return what numbers are used: from the hint, or from a listing where there is none."""
        return self.hint(model) or self._list(model)

    def is_claimed(self, model: str, version: int) -> bool:
        """Tell whether `version` was ever used by us."""
        return self._objects.head(_claim(model, version)) is not None

    def claimant(self, model: str, version: int) -> str | None:
        """Return the hex digits of the fingerprint that the number was claimed for; None if there is no claim."""
        found = self._objects.get(_claim(model, version), limit=1000)
        return None if found is None else hex_of(found.body.decode("ascii", "replace").partition("\n")[0])

    def claim(self, model: str, version: int, *, note: str) -> bool:
        """Mark `version` as used, and return whether it was not before."""
        self._conditional_writes.check()
        try:
            # The random part tells our claim from another one for the same bytes.
            self._objects.create(_claim(model, version), f"{note}\n{uuid4().hex}\n".encode())
        except PreconditionFailed:
            return False
        return True

    def claim_next(self, model: str, *, above: int, note: str) -> int:
        """Claim the first free number above `above`, the hint, and whatever is found on the way up."""
        known = self.known(model)
        number, misses = max(above, known.highest, 0), 0
        while number < MAX_VERSION:
            number += 1
            if self._claim_free(model, number, note):
                self._raise_hint(model, number, known.foreign)
                return number
            misses += 1
            if misses % _MISSES == 0:
                number = max(number, self._list(model).highest)
            elif misses > 2:
                # Many at once: they scatter instead of racing for each number in turn.
                number = min(number + secrets.randbelow(misses), MAX_VERSION)
        raise StoreError(
            f"The version numbers of model {model!r} are used up: {MAX_VERSION} is taken.",
            "Publish under another model name.",
        )

    def _claim_free(self, model: str, number: int, note: str) -> bool:
        if not self.claim(model, number, note=note):
            return False
        # Whatever lies there was not written under this claim.
        return next(self._objects.list(folder(model, number), limit=1), None) is None

    def _raise_hint(self, model: str, number: int, foreign: tuple[int, ...]) -> None:
        """Let the hint be at least `number`; a hint that stays behind costs the next publish some more steps."""

        def raised(hint: Numbering) -> Numbering:
            return hint if hint.highest >= number else Numbering(number, hint.foreign)

        with contextlib.suppress(Contention):
            update(
                self._documents,
                _key(model),
                Numbering,
                raised,
                default=Numbering(0, foreign),
                clock=self._clock,
                seconds=_HINT_SECONDS,
                replace_corrupt=True,
            )

    def _list(self, model: str) -> Numbering:
        claims = state(f"claims/{model}/")
        claimed = {served_number(found.name[len(claims) :]) for found in self._objects.list(claims)} - {None}
        names = list(self._objects.folders(f"{model}/"))
        there = {served_number(name) for name in names} - {None}
        own_form = {number for name in names if (number := served_number(name)) and number > 0 and name == str(number)}
        used = [number for number in claimed | there if number is not None]
        return Numbering(max(used, default=0), tuple(sorted(own_form - claimed)))


def _key(model: str) -> str:
    return f"numbering/{model}"


def _claim(model: str, version: int) -> str:
    return state(f"claims/{model}/{version}")
