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

# After so many taken numbers the hint is far behind, and all claims are listed.
_MISSES = 16
# Other publishes that keep writing the hint for so long raise it as well.
_HINT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Numbering:
    """The document ``numbering/<model>``: a hint at the highest number, and versions that have no claim."""

    highest: int = 0
    foreign: tuple[int, ...] = ()


class Numbers:
    """Claims of version numbers.

    The claims decide, so the hint may be lost or too low; without it all claims are listed once. A version that other
    tools copy into the bucket later is noticed only when its own number is claimed.
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
        stored = self._documents.read(_key(model))
        try:
            return None if stored is None else from_json(Numbering, stored.body)
        except CorruptModel:
            return None

    def known(self, model: str) -> Numbering:
        """Return the used numbers, from the hint or else from a listing."""
        return self.hint(model) or self._list(model)

    def is_claimed(self, model: str, version: int) -> bool:
        """Tell whether `version` was ever claimed."""
        return self._objects.head(_claim(model, version)) is not None

    def claimant(self, model: str, version: int) -> str | None:
        """Return the hex digits of the fingerprint that the number was claimed for; None if there is no claim."""
        stored = self._objects.get(_claim(model, version), limit=1000)
        return None if stored is None else hex_of(stored.body.decode("ascii", "replace").partition("\n")[0])

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
        """Claim the first free number above `above` and the hint."""
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
                # Many publishes at once: a random step spares them a race for each number in turn.
                number = min(number + secrets.randbelow(misses), MAX_VERSION)
        raise StoreError(
            f"The version numbers of model {model!r} are used up: {MAX_VERSION} is taken.",
            "Publish under another model name.",
        )

    def _claim_free(self, model: str, number: int, note: str) -> bool:
        if not self.claim(model, number, note=note):
            return False
        # Objects under a number that was just claimed come from another tool.
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
        claimed = {served_number(stored.name[len(claims) :]) for stored in self._objects.list(claims)} - {None}
        names = list(self._objects.folders(f"{model}/"))
        there = {served_number(name) for name in names} - {None}
        own_form = {number for name in names if (number := served_number(name)) and number > 0 and name == str(number)}
        used = [number for number in claimed | there if number is not None]
        return Numbering(max(used, default=0), tuple(sorted(own_form - claimed)))


def _key(model: str) -> str:
    return f"numbering/{model}"


def _claim(model: str, version: int) -> str:
    return state(f"claims/{model}/{version}")
