"""The history of a model: what is live, since when, who moved it, what the gates measured (I4).

Every function costs a constant number of document operations, whatever the length of the history, but `history`, which
reads what it returns, and `version_at`, which reads a number that grows with the logarithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from tfs_deploy.deployment.deployment_record import (
    MOVES_STABLE,
    UNKNOWN_SEQUENCE,
    Action,
    DeploymentRecord,
    ServedVersion,
)
from tfs_deploy.deployment.record_log import LogEnd, RecordLog, live_after, model_names
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import InvalidInput, Refused
from tfs_deploy.store.protocol import StateDocuments

__all__ = [
    "MOVES_STABLE",
    "Action",
    "DeploymentRecord",
    "ServedVersion",
    "append",
    "append_once",
    "find_by_key",
    "history",
    "latest_move",
    "mentions",
    "models",
    "new_record",
    "version_at",
]


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
    """Write `record` as the model's next one, whatever its `sequence` says, and return it as written.

    Raises Contention when other writers take every number for a minute.
    """
    return RecordLog(documents, record.group, record.model).append(record)


def append_once(documents: StateDocuments, record: DeploymentRecord) -> DeploymentRecord:
    """Return the first record of the same action on the same version; append `record` if there is none."""
    return RecordLog(documents, record.group, record.model).append(record, once=True)


def history(
    documents: StateDocuments,
    group: str,
    model: str,
    *,
    limit: int | None = None,
    since: datetime | None = None,
    action: Action | None = None,
) -> tuple[DeploymentRecord, ...]:
    """Return the newest `limit` records (None: all) of `action` that are not older than `since`, oldest first.

    Reads back from the newest record, and stops at `limit` or at the first record that is older than `since`.
    """
    entries: list[DeploymentRecord] = []
    for entry in _backward(RecordLog(documents, group, model)):
        if since is not None and _time_of(entry) < since:
            break
        if action is None or entry.action is action:
            entries.append(entry)
        if len(entries) == limit:
            break
    return tuple(reversed(entries))


def latest_move(documents: StateDocuments, group: str, model: str) -> DeploymentRecord | None:
    """Return the record of the last move of `stable`, None if no version was ever promoted."""
    log = RecordLog(documents, group, model)
    end = log.end()
    return log.read_at_end(end.head.last_move, end)


def find_by_key(session: GroupSession, model: str, idempotency_key: str) -> DeploymentRecord | None:
    """Return the record of the move with `idempotency_key`, None if there is none or the key is empty.

    Raises Refused if `stable` was moved again since: a repeated request would undo that.
    """
    if not idempotency_key:
        return None
    log = RecordLog(session.store.documents, session.group.name, model)
    end = log.end()
    sequence = log.last_with_key(idempotency_key, end)
    done = log.read_at_end(sequence, end)
    if done is None or sequence >= end.head.last_move:
        return done
    latest = log.read_at_end(end.head.last_move, end) or done
    raise Refused(
        f"This move of model {model!r} was carried out at {done.at}, and {latest.actor} has moved `stable` to "
        f"version {latest.version} since.",
        "Nothing was changed; to go back again make a new request, in Airflow a new DAG run.",
    )


def mentions(documents: StateDocuments, group: str, model: str, version: int) -> bool:
    """Tell whether there is a record of `version`."""
    log = RecordLog(documents, group, model)
    end = log.end()
    return any(entry.version == version for entry in end.newer) or bool(log.version_index(version).first)


def first_events(documents: StateDocuments, group: str, model: str, version: int) -> tuple[DeploymentRecord, ...]:
    """Return the first record of each action on `version`, at a constant cost."""
    log = RecordLog(documents, group, model)
    end = log.end()
    indexed = (log.read_at_end(sequence, end) for sequence in log.version_index(version).first.values())
    newer = (entry for entry in end.newer if entry.version == version)
    return tuple(entry for entry in (*indexed, *newer) if entry is not None)


def version_at(documents: StateDocuments, group: str, model: str, at: datetime) -> ServedVersion:
    """Return the version that answered `stable` at `at` (timezone-aware), by the record.

    Searches by bisection, because records are written in the order of their times. Where the clocks of two deployers
    differ, the answer holds for times that lie further than that difference from a move.
    """
    if at.tzinfo is None:
        raise InvalidInput(f"The time {at.isoformat()} has no time zone.", "Write for example 2026-11-22T12:00:00Z.")
    utc = at.astimezone(timezone.utc).isoformat()
    log = RecordLog(documents, group, model)
    end = log.end()
    last = _last_until(log, end, at)
    made_live = None if last is None else log.read_at_end(live_since(log, last, end), end)
    if made_live is None:
        return ServedVersion(model, utc, None, "", "")
    return ServedVersion(model, utc, live_after(made_live) or None, made_live.at, made_live.actor)


def models(documents: StateDocuments, group: str) -> tuple[str, ...]:
    """Return, sorted, the names of the models that have a record in `group`."""
    return model_names(documents, group)


def live_since(log: RecordLog, record: DeploymentRecord, end: LogEnd) -> int:
    """Return the sequence of the record that made live what is live after `record`, 0 if nothing ever was.

    Only records from before there was a field for it are read: back to where another version was live.
    """
    if record.live_since != UNKNOWN_SEQUENCE:
        return record.live_since
    start, version = 0, -1
    for sequence in range(record.sequence, 0, -1):
        entry = log.read_at_end(sequence, end)
        if entry is None:
            continue
        if entry.live_since != UNKNOWN_SEQUENCE:
            return entry.live_since if version in (-1, live_version(log, entry.live_since, end)) else start
        if entry.action in MOVES_STABLE:
            if version not in (-1, live_after(entry)):
                return start
            start, version = sequence, live_after(entry)
    return start if version > 0 else 0


def live_version(log: RecordLog, since: int, end: LogEnd) -> int:
    """Return the version that the record `since` made live, 0 for none."""
    entry = log.read_at_end(since, end)
    return 0 if entry is None else live_after(entry)


def _last_until(log: RecordLog, end: LogEnd, at: datetime) -> DeploymentRecord | None:
    """Return the last record that is not later than `at`, None if all are."""
    newest = log.read_at_end(end.head.sequence, end)
    if newest is not None and _time_of(newest) <= at:
        return newest
    last, low, high = None, 1, end.head.sequence - 1
    while low <= high:
        middle = (low + high) // 2
        entry = next((each for number in range(middle, low - 1, -1) if (each := log.read_at_end(number, end))), None)
        if entry is None:
            low = middle + 1
        elif _time_of(entry) <= at:
            last, low = entry, middle + 1
        else:
            high = entry.sequence - 1
    return last


def _backward(log: RecordLog) -> Iterator[DeploymentRecord]:
    """Yield the records from the newest to the oldest, each read when it is asked for."""
    end = log.end()
    for sequence in range(end.head.sequence, 0, -1):
        if (entry := log.read_at_end(sequence, end)) is not None:
            yield entry


def _time_of(record: DeploymentRecord) -> datetime:
    return datetime.fromisoformat(record.at)
