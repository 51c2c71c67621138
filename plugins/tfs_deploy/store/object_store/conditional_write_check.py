"""Check that the server honours conditional writes, on which every other guarantee of the store rests.

Some S3-compatible servers accept ``If-None-Match`` and ``If-Match`` and ignore them; two publishers would then get the
same number, and one writer would overwrite another one's state document. A note in the store records a passed check, so
that a store is checked once and not once per process. The name of the note is a digest of endpoint, bucket and prefix:
a note in a bucket that was copied to another server does not count there.
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
# No object has this ETag: no bytes with an MD5 of zeros are known, and other kinds of ETag have another form.
_NO_ETAG = f'"{"0" * 32}"'
_TRIES = 16


@dataclass(frozen=True, slots=True)
class CheckNote:
    """The object ``.probe/<digest>``; ``passed_at`` is ISO 8601 in UTC, empty during a check.

    ``bare_etags`` is that of `tfs_deploy.store.object_store.objects.Objects`.
    """

    endpoint: str
    store: str
    passed_at: str
    nonce: str
    bare_etags: bool = False


class ConditionalWriteCheck:
    """Checks a store before the first write to it.

    The note itself is the object of the trial writes, and stays in a store that passes. So many processes may check at
    the same time, and the note of a process that died is used by the next one.
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
        stored = self._objects.get(self._name)
        return stored is not None and self._use_note(stored.body)

    def _try(self) -> None:
        with contextlib.suppress(PreconditionFailed):  # another process has created it
            self._objects.create(self._name, self._note())
        if_none_match_works = self._is_refused(lambda: self._objects.create(self._name, self._note()))
        if not if_none_match_works or not (
            self._if_match_works(bare_etags=False) or self._if_match_works(bare_etags=True)
        ):
            self._objects.delete(self._name)
            raise Refused(
                f"The S3 server of {self._objects.address.uri!r} ignores conditional writes (If-None-Match, If-Match), "
                "so two publishers could overwrite each other.",
                "Use a store that honours them, such as Amazon S3 or MinIO, or a directory.",
            )

    def _if_match_works(self, *, bare_etags: bool) -> bool:
        """Tell whether a wrong ETag is refused and the right one is not, written with or without its quotes."""
        self._objects.bare_etags = bare_etags
        if not self._is_refused(lambda: self._objects.replace(self._name, self._note(), etag=_NO_ETAG)):
            return False
        tried = ""
        for _ in range(_TRIES):
            stored = self._objects.get(self._name)
            if stored is None or stored.etag == tried:
                return False  # the note is unchanged, so the right ETag was refused
            if self._use_note(stored.body):
                return True
            tried = stored.etag
            try:
                self._objects.replace(self._name, self._note(self._clock.now().isoformat()), etag=stored.etag)
            except PreconditionFailed:
                continue
            return True
        return False

    def _use_note(self, body: bytes) -> bool:
        """Tell whether the note records a passed check, and use its form of ETags."""
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
        """Raise Refused if the prefix lies inside a model of another store."""
        address, objects = self._objects.address, self._objects
        for name in ("saved_model.pb", "assets.extra/tfs_deploy_manifest.json"):
            if objects.head(name) is not None:
                raise Refused(
                    f"The prefix of {address.uri!r} is that of a model version: it holds {name!r}.",
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
