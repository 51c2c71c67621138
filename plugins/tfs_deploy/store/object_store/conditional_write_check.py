"""Try whether the store keeps the promise that all else rests on: conditional writes.

Some S3-compatible servers accept ``If-None-Match`` and ``If-Match`` and ignore them; two publishers would then get the
same number, and state documents would be overwritten unseen. The outcome is noted in the store, so that each store is
tried once and not once per process. The note is named after endpoint, bucket and prefix: one that was copied with the
rest of a bucket to another server does not count there.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from tfs_deploy.clock import Clock
from tfs_deploy.errors import CorruptModel, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.names import is_model_name
from tfs_deploy.store.object_store.address import STATE_FOLDER
from tfs_deploy.store.object_store.errors import PreconditionFailed
from tfs_deploy.store.object_store.objects import Objects

_FOLDER = f"{STATE_FOLDER}/.probe"
# No object has it: an MD5 of all zeros is not known, and other kinds of ETag look different.
_NO_ETAG = f'"{"0" * 32}"'
_TRIES = 16


@dataclass(frozen=True, slots=True)
class CheckNote:
    """The object ``.probe/<digest>``; ``passed_at`` is ISO 8601 in UTC, empty while somebody is trying.

    ``bare_etags`` is that of `tfs_deploy.store.object_store.objects.Objects`.
    """

    endpoint: str
    store: str
    passed_at: str
    nonce: str
    bare_etags: bool = False


class ConditionalWriteCheck:
    """Checks a store before the first write to it.

    The note itself is what is tried on, and it is never removed from a store that passes. So many processes may try at
    the same time, and one that dies leaves nothing that the next one does not use.
    """

    def __init__(self, objects: Objects, *, endpoint: str, clock: Clock) -> None:
        self._objects = objects
        self._endpoint = endpoint
        self._clock = clock
        self._passed = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Refused if the store ignores conditional writes, or lies inside a version of another store."""
        if self._passed:
            return
        with self._lock:
            if not self._passed and not self._is_noted():
                self._check_place()
                self._try()
            self._passed = True

    @property
    def _name(self) -> str:
        where = f"{self._endpoint} {self._objects.address.uri}"
        return f"{_FOLDER}/{hashlib.sha256(where.encode()).hexdigest()[:32]}"

    def _note(self, passed_at: str = "") -> bytes:
        uri = self._objects.address.uri
        return to_json(CheckNote(self._endpoint, uri, passed_at, uuid4().hex, self._objects.bare_etags))

    def _is_noted(self) -> bool:
        found = self._objects.get(self._name)
        return found is not None and self._take_over(found.body)

    def _try(self) -> None:
        with contextlib.suppress(PreconditionFailed):  # of another process; that will do as well
            self._objects.create(self._name, self._note())
        kept = self._is_refused(lambda: self._objects.create(self._name, self._note()))
        if not kept or not (self._keeps_if_match(bare_etags=False) or self._keeps_if_match(bare_etags=True)):
            self._objects.delete(self._name)
            raise Refused(
                f"The S3 server of {self._objects.address.uri!r} ignores conditional writes (If-None-Match, If-Match), "
                "so two publishers could overwrite each other.",
                "Use a store that honours them, such as Amazon S3 or MinIO, or a directory.",
            )

    def _keeps_if_match(self, *, bare_etags: bool) -> bool:
        """Tell whether a wrong ETag is refused and the right one is not, written with or without its quotes."""
        self._objects.bare_etags = bare_etags
        if not self._is_refused(lambda: self._objects.replace(self._name, self._note(), etag=_NO_ETAG)):
            return False
        tried = ""
        for _ in range(_TRIES):
            found = self._objects.get(self._name)
            if found is None or found.etag == tried:
                return False  # nobody was faster, the right ETag itself was refused
            if self._take_over(found.body):
                return True
            tried = found.etag
            try:
                self._objects.replace(self._name, self._note(self._clock.now().isoformat()), etag=found.etag)
            except PreconditionFailed:
                continue
            return True
        return False

    def _take_over(self, body: bytes) -> bool:
        """Tell whether this note says that a try went well, and go on as that one did."""
        note = _parse(body)
        if note is None or not note.passed_at:
            return False
        self._objects.bare_etags = note.bare_etags
        return True

    def _is_refused(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except PreconditionFailed:
            return True
        return False

    def _check_place(self) -> None:
        """Look whether the prefix lies where another store keeps a model."""
        address, objects = self._objects.address, self._objects
        for name in ("saved_model.pb", "assets.extra/tfs_deploy_manifest.json"):
            if objects.head(name) is not None:
                raise Refused(
                    f"The prefix of {address.uri!r} is that of a model version: {name!r} lies there.",
                    "Name the prefix above the models.",
                )
        segments = address.prefix.split("/") if address.prefix else []
        for length in range(len(segments)):
            outer, model = "/".join(segments[:length]), segments[length]
            if is_model_name(model) and objects.exists_in_bucket(f"{outer}/{STATE_FOLDER}/claims/{model}/".lstrip("/")):
                raise Refused(
                    f"The prefix of {address.uri!r} lies inside the model {model!r} of the store "
                    f"{f's3://{address.bucket}/{outer}'.rstrip('/')!r}.",
                    "Name that store's own prefix, or one outside of it.",
                )


def _parse(body: bytes) -> CheckNote | None:
    try:
        return from_json(CheckNote, body)
    except CorruptModel:
        return None
