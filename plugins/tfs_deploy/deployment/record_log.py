"""The log of one model's records in a serving group: numbered documents, a head, and indexes that follow from them.

::

    groups/<group>/records/<model>/<sequence>.json             one record, written by exclusive create
    groups/<group>/record_packs/<model>/<first>-<last>.json    PACK_RECORDS old records; `record_packs` writes them
    groups/<group>/record_heads/<model>.json                   `Head`: up to where the indexes go
    groups/<group>/record_versions/<model>/<version>.json      `VersionIndex`: per action the first record of a version
    groups/<group>/record_keys/<model>/<digest>.json           `KeyIndex`: the last move with an idempotency key

A record counts from the moment at which its document is there. Whoever moves the head past a record has indexed that
record before. So a reader takes the head, reads on from there until a record is missing, and asks the indexes about
everything older: what a writer that died has left out costs one read more, and the next writer makes up for it.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tfs_deploy.clock import Clock, Deadline, SystemClock
from tfs_deploy.deployment.deployment_record import MOVES_STABLE, Action, DeploymentRecord
from tfs_deploy.errors import Contention
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments

# Records with 1,000 replicas have 30 kB each, and a document at most 16 MiB.
PACK_RECORDS = 100
# A hundred writers of one model at once are done within some seconds.
APPEND_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 0.2
# Where no record is indexed yet, a writer that is killed continues after the last batch.
_INDEX_BATCH = 500


@dataclass(frozen=True, slots=True)
class Head:
    """What is indexed: all records up to `sequence`; those up to `packed` are in packs, or are being packed.

    `last_move` is the sequence of the last move of `stable`, `live_since` that of the record that made `live_version`
    live; each is 0 where there is none.
    """

    sequence: int = 0
    last_move: int = 0
    live_since: int = 0
    live_version: int = 0
    packed: int = 0

    def after(self, record: DeploymentRecord) -> Head:
        """Return the head that includes `record`, the next one."""
        if record.action not in MOVES_STABLE:
            return replace(self, sequence=record.sequence)
        version, live_since = live_after(record), self.live_since
        if version != self.live_version:
            live_since = record.sequence
        return Head(record.sequence, record.sequence, live_since, version, self.packed)


@dataclass(frozen=True, slots=True)
class VersionIndex:
    """The records of one version: per action (its value) the sequence of the first one."""

    first: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """The last move of `stable` with one idempotency key."""

    sequence: int = 0


@dataclass(frozen=True, slots=True)
class RecordPack:
    """PACK_RECORDS records in a row, as one document."""

    records: tuple[DeploymentRecord, ...]


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The end of a log: the stored head (None: not written yet), the records after it, and the head of all of them."""

    stored: Head | None
    newer: tuple[DeploymentRecord, ...]
    head: Head


class RecordLog:
    """The records of `model` in `group`; an object serves one caller, because it keeps the last pack that it read."""

    def __init__(self, documents: StateDocuments, group: str, model: str, *, clock: Clock | None = None) -> None:
        self.documents = documents
        self.group = group
        self.model = model
        self._clock = clock or SystemClock()
        self._pack: tuple[int, dict[int, DeploymentRecord]] = (0, {})

    def end(self) -> LogEnd:
        """Return where the log ends now, at the cost of two reads and one per record that is not indexed."""
        stored = self.stored_head()
        newer, packed = self._listed() if stored is None else ([], 0)
        head = stored or _head_before(newer, packed=packed)
        for entry in newer:
            head = head.after(entry)
        while (added := self._next(head)) is not None:
            newer.append(added)
            head = head.after(added)
        return LogEnd(stored, tuple(newer), head)

    def stored_head(self) -> Head | None:
        """Return the head document, None if there is none."""
        document = self.documents.read(self._head_key)
        return None if document is None else from_json(Head, document.body)

    def read(self, sequence: int, head: Head) -> DeploymentRecord | None:
        """Return one record, None if it is missing; `head` says where to look first."""
        if sequence <= head.packed:
            return self.read_packed(sequence) or self._read_single(sequence)
        # In this order: a record that is packed meanwhile is in the pack before its own document is deleted.
        return self._read_single(sequence) or self.read_packed(sequence)

    def read_at_end(self, sequence: int, end: LogEnd) -> DeploymentRecord | None:
        """Return one record, None for 0 and if it is missing; those that `end` holds are not read again."""
        if sequence < 1:
            return None
        newer = next((entry for entry in end.newer if entry.sequence == sequence), None)
        return newer or self.read(sequence, end.head)

    def read_packed(self, sequence: int) -> DeploymentRecord | None:
        """Return one record from its pack, None if it is in none."""
        first = first_of_pack(sequence)
        if self._pack[0] != first:
            document = self.documents.read(self.pack_key(first))
            if document is None:
                return None
            entries = from_json(RecordPack, document.body).records
            self._pack = (first, {entry.sequence: entry for entry in entries})
        return self._pack[1].get(sequence)

    def first_with_action(self, version: int, action: Action, end: LogEnd) -> DeploymentRecord | None:
        """Return the first record of `action` on `version`, None if there is none."""
        sequence = self.version_index(version).first.get(action.value)
        if sequence is not None:
            return self.read(sequence, end.head)
        return next((entry for entry in end.newer if (entry.action, entry.version) == (action, version)), None)

    def version_index(self, version: int) -> VersionIndex:
        """Return the index of the records of `version`, as far as the stored head goes."""
        document = self.documents.read(self._version_key(version))
        return VersionIndex() if document is None else from_json(VersionIndex, document.body)

    def last_with_key(self, idempotency_key: str, end: LogEnd) -> int:
        """Return the sequence of the last move with `idempotency_key`, 0 if there is none."""
        for entry in reversed(end.newer):
            if entry.action in MOVES_STABLE and entry.idempotency_key == idempotency_key:
                return entry.sequence
        document = self.documents.read(self._idempotency_key(idempotency_key))
        return 0 if document is None else from_json(KeyIndex, document.body).sequence

    def append(self, record: DeploymentRecord, *, once: bool = False) -> DeploymentRecord:
        """Write `record` as the next one and return it as written.

        With `once`, return the record of the same action on the same version if there is one: a writer that claims a
        number knows every record below it. Raises Contention after APPEND_SECONDS.
        """
        deadline = Deadline.after(APPEND_SECONDS, self._clock)
        stored = self.stored_head()
        # The exclusive create finds out whether there are newer records.
        end = self.end() if stored is None else LogEnd(stored, (), stored)
        while True:
            if once and (known := self.first_with_action(record.version, record.action, end)) is not None:
                return known
            numbered = replace(record, sequence=end.head.sequence + 1)
            numbered = replace(numbered, live_since=end.head.after(numbered).live_since)
            if self._create(numbered):
                self.index((*end.newer, numbered), end)
                return numbered
            if deadline.passed():
                raise Contention(
                    f"Other writers took every number for a record of model {self.model!r} in group {self.group!r} for "
                    f"{APPEND_SECONDS:.0f} s.",
                    "Run the same step again.",
                )
            # Random, so that writers that met once do not meet again.
            self._clock.sleep(random.uniform(0.0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 - a pause is no secret
            end = self.end()

    def index_all(self, end: LogEnd) -> LogEnd:
        """Index the records after the stored head, and return the end with the new head."""
        head = self.index(end.newer, end) if end.newer else end.head
        return LogEnd(head, (), head)

    def index(self, entries: Sequence[DeploymentRecord], end: LogEnd) -> Head:
        """Write the indexes of `entries`, which follow the stored head of `end`, and move the head past them."""
        head = end.stored or _head_before(entries, packed=end.head.packed)
        for start in range(0, len(entries), _INDEX_BATCH):
            batch = entries[start : start + _INDEX_BATCH]
            for version in dict.fromkeys(entry.version for entry in batch):
                self._index_version(version, [entry for entry in batch if entry.version == version])
            for entry in batch:
                if entry.action in MOVES_STABLE and entry.idempotency_key:
                    self._index_key(entry)
                head = head.after(entry)
            self.change_head(functools.partial(_newest, head))
        return head

    def change_head(self, change: Callable[[Head], Head]) -> Head:
        """Change the head document by compare-and-set, and return the new one."""
        return update(self.documents, self._head_key, Head, change, default=Head(), clock=self._clock)

    def single_sequences(self) -> tuple[int, ...]:
        """List the sequences of the records that have a document of their own, in rising order."""
        prefix = self._singles_prefix
        return tuple(int(key[len(prefix) :].removesuffix(".json")) for key in self.documents.list(prefix))

    def delete_single(self, sequence: int) -> None:
        """Delete the document of one record, which a pack holds."""
        self.documents.delete(self.single_key(sequence))

    def single_key(self, sequence: int) -> str:
        """Return the key of the document of one record."""
        return f"{self._singles_prefix}{sequence:010d}.json"

    def pack_key(self, first: int) -> str:
        """Return the key of the pack that begins with record `first`."""
        return f"{self._packs_prefix}{first:010d}-{first + PACK_RECORDS - 1:010d}.json"

    def _create(self, record: DeploymentRecord) -> bool:
        """Write `record` under its number; return False if the number is taken."""
        key = self.single_key(record.sequence)
        try:
            self.documents.write(key, to_json(record), expected=None)
        except Contention:
            return False
        # A writer that stood still while its number was taken, packed and deleted has created it a second time. Nobody
        # reads that document, because the pack goes first.
        head = self.stored_head()
        if head is None or record.sequence > head.packed or self.read_packed(record.sequence) in (None, record):
            return True
        self.documents.delete(key)
        return False

    def _next(self, head: Head) -> DeploymentRecord | None:
        """Return the record after `head`, None if it is not there yet."""
        sequence = head.sequence + 1
        return self.read(sequence, head) if sequence <= head.packed else self._read_single(sequence)

    def _read_single(self, sequence: int) -> DeploymentRecord | None:
        document = self.documents.read(self.single_key(sequence))
        return None if document is None else _parsed(document.body)

    def _listed(self) -> tuple[list[DeploymentRecord], int]:
        """Return every record that a listing shows, and how many are in packs: of a log without a head."""
        # In this order: a record that is packed meanwhile is in the pack before its own document is deleted.
        singles, packs = self.single_sequences(), self.documents.list(self._packs_prefix)
        firsts = [int(key[len(self._packs_prefix) :].split("-", 1)[0]) for key in packs]
        packed = {sequence for first in firsts for sequence in range(first, first + PACK_RECORDS)}
        head = Head(packed=max(packed, default=0))
        numbers = sorted(packed.union(singles))
        return [entry for number in numbers if (entry := self.read(number, head)) is not None], head.packed

    def _index_version(self, version: int, entries: Iterable[DeploymentRecord]) -> None:
        def merged(known: VersionIndex) -> VersionIndex:
            first = dict(known.first)
            for entry in entries:
                first[entry.action.value] = min(entry.sequence, first.get(entry.action.value, entry.sequence))
            return VersionIndex(first)

        key = self._version_key(version)
        update(self.documents, key, VersionIndex, merged, default=VersionIndex(), clock=self._clock)

    def _index_key(self, record: DeploymentRecord) -> None:
        def newest(known: KeyIndex) -> KeyIndex:
            return KeyIndex(max(known.sequence, record.sequence))

        key = self._idempotency_key(record.idempotency_key)
        update(self.documents, key, KeyIndex, newest, default=KeyIndex(), clock=self._clock)

    @property
    def _head_key(self) -> str:
        return f"groups/{self.group}/record_heads/{self.model}.json"

    @property
    def _singles_prefix(self) -> str:
        return f"groups/{self.group}/records/{self.model}/"

    @property
    def _packs_prefix(self) -> str:
        return f"groups/{self.group}/record_packs/{self.model}/"

    def _version_key(self, version: int) -> str:
        return f"groups/{self.group}/record_versions/{self.model}/{version}.json"

    def _idempotency_key(self, idempotency_key: str) -> str:
        # A digest, because the key holds characters that a document's key may not have.
        digest = hashlib.sha256(idempotency_key.encode()).hexdigest()[:40]
        return f"groups/{self.group}/record_keys/{self.model}/{digest}.json"


def live_after(record: DeploymentRecord) -> int:
    """Return the version that is live after `record`, a move of `stable`; 0 for none."""
    return 0 if record.action is Action.UNDEPLOYED else record.version


def first_of_pack(sequence: int) -> int:
    """Return the first sequence of the pack in which the record `sequence` is, or will be."""
    return (sequence - 1) // PACK_RECORDS * PACK_RECORDS + 1


def model_names(documents: StateDocuments, group: str) -> tuple[str, ...]:
    """Return, sorted, the names of the models that have a record in `group`."""
    singles, packs = documents.folders(f"groups/{group}/records/"), documents.folders(f"groups/{group}/record_packs/")
    return tuple(sorted({*singles, *packs}))


def _head_before(entries: Sequence[DeploymentRecord], *, packed: int) -> Head:
    """Return the head of a log in which nothing is indexed."""
    return Head(sequence=entries[0].sequence - 1 if entries else 0, packed=packed)


def _newest(head: Head, current: Head) -> Head:
    """Return the head that goes further; what is packed stays packed."""
    return current if current.sequence >= head.sequence else replace(head, packed=max(head.packed, current.packed))


@dataclass(frozen=True, slots=True)
class _OldRecord:
    """The field of records before 2026-11-28 that has another name now."""

    request: str = ""


def _parsed(body: bytes) -> DeploymentRecord:
    record = from_json(DeploymentRecord, body)
    # Quotes inside of a text are escaped in JSON, so these bytes are the key of an old record.
    if record.idempotency_key or b'"request"' not in body:
        return record
    return replace(record, idempotency_key=from_json(_OldRecord, body).request)
