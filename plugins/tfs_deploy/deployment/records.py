"""The deployment record: what is live, since when, who moved it, what the gates measured (I4)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Contention, InvalidInput, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.protocol import StateDocuments


class Action(str, Enum):
    """The events of a version that are recorded."""

    PUBLISHED = "published"
    VALIDATED = "validated"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    PUT_BACK = "put_back"
    REJECTED = "rejected"
    RETIRED = "retired"


# Only after these another version may answer `stable`; PUT_BACK follows a move that failed.
MOVES_STABLE = frozenset({Action.PROMOTED, Action.ROLLED_BACK, Action.PUT_BACK})


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """One line of a model's history; `at` is ISO 8601 in UTC, `previous` the version that was live before.

    `idempotency_key` names the request that caused it (an Airflow task of a run), and is empty where there is none;
    `generation` is that of the desired state in which a move of labels began.
    """

    sequence: int
    at: str
    group: str
    model: str
    action: Action
    version: int
    actor: str
    previous: int | None = None
    fingerprint: str = ""
    reason: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()
    seconds: float = 0.0
    idempotency_key: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The version that answered `stable` at a moment, since when, and who moved it there; `version` None: none yet."""

    model: str
    at: str
    version: int | None
    since: str
    actor: str


def new_record(session: GroupSession, model: str, action: Action, version: int, **more: Any) -> DeploymentRecord:
    """Return a record of something that the actor of `session` does now; `append` gives it its number."""
    return DeploymentRecord(
        sequence=0,
        at=session.clock.now().isoformat(),
        group=session.group.name,
        model=model,
        action=action,
        version=version,
        actor=session.actor,
        replicas=session.group.replicas,
        **more,
    )


def append(documents: StateDocuments, record: DeploymentRecord) -> DeploymentRecord:
    """Write `record` as the model's next one, whatever its `sequence` says, and return it as written."""
    prefix = _prefix(record.group, record.model)
    while True:
        keys = documents.list(prefix)
        sequence = 1 + (int(keys[-1][len(prefix) :].removesuffix(".json")) if keys else 0)
        numbered = replace(record, sequence=sequence)
        try:
            documents.write(f"{prefix}{sequence:010d}.json", to_json(numbered), expected=None)
        except Contention:
            # Another writer took this number, so its record is there and this one comes after it.
            continue
        return numbered


def append_once(documents: StateDocuments, record: DeploymentRecord) -> DeploymentRecord:
    """Return the record of the same action on the same version; append `record` if there is none."""
    for entry in history(documents, record.group, record.model):
        if (entry.action, entry.version) == (record.action, record.version):
            return entry
    return append(documents, record)


def history(documents: StateDocuments, group: str, model: str) -> tuple[DeploymentRecord, ...]:
    """Return the model's records, oldest first."""
    entries = (documents.read(key) for key in documents.list(_prefix(group, model)))
    return tuple(_parsed(document.body) for document in entries if document is not None)


def latest_move(documents: StateDocuments, group: str, model: str) -> DeploymentRecord | None:
    """Return the record of the last move of `stable`, None if no version was ever promoted."""
    moves = _moves(documents, group, model)
    return moves[-1] if moves else None


def find_by_key(session: GroupSession, model: str, idempotency_key: str) -> DeploymentRecord | None:
    """Return the record of the move with `idempotency_key`, None if there is none or the key is empty.

    Raises Refused if `stable` was moved again since: a repeated request would undo that.
    """
    if not idempotency_key:
        return None
    moves = _moves(session.store.documents, session.group.name, model)
    done = next((move for move in reversed(moves) if move.idempotency_key == idempotency_key), None)
    if done is not None and done is not moves[-1]:
        raise Refused(
            f"This move of model {model!r} was carried out at {done.at}, and {moves[-1].actor} has moved `stable` to "
            f"version {moves[-1].version} since.",
            "Nothing was changed; to go back again make a new request, in Airflow a new DAG run.",
        )
    return done


def version_at(documents: StateDocuments, group: str, model: str, at: datetime) -> ServedVersion:
    """Return the version that answered `stable` at `at` (timezone-aware), by the record."""
    if at.tzinfo is None:
        raise InvalidInput(f"The time {at.isoformat()} has no time zone.", "Write for example 2026-11-22T12:00:00Z.")
    utc = at.astimezone(timezone.utc).isoformat()
    served = ServedVersion(model, utc, None, "", "")
    for record in history(documents, group, model):
        moved = record.action in MOVES_STABLE and (record.version or None) != served.version
        if moved and datetime.fromisoformat(record.at) <= at:
            served = ServedVersion(model, utc, record.version or None, record.at, record.actor)
    return served


def models(documents: StateDocuments, group: str) -> tuple[str, ...]:
    """Return the names of the models that have a record in `group`."""
    prefix = f"groups/{group}/records/"
    return tuple(sorted({key[len(prefix) :].split("/", 1)[0] for key in documents.list(prefix)}))


def _moves(documents: StateDocuments, group: str, model: str) -> list[DeploymentRecord]:
    return [entry for entry in history(documents, group, model) if entry.action in MOVES_STABLE]


def _prefix(group: str, model: str) -> str:
    return f"groups/{group}/records/{model}/"


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
