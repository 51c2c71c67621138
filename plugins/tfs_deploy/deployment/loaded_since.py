"""Since when each replica holds a version: a document per loaded version, because TF Serving does not tell the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments


@dataclass(frozen=True, slots=True)
class LoadedSince:
    """The document ``groups/<group>/loaded/<model>/<version>.json``: ISO 8601 times in UTC, by replica.

    A time is when the wait for the load saw the version AVAILABLE there; a restart of the server leaves it as it is.
    """

    replicas: dict[str, str] = field(default_factory=dict)


def save(session: GroupSession, model: str, version: int, times: Mapping[str, datetime]) -> None:
    """Note since when each replica of `times` (timezone-aware) holds the version; other replicas keep their time."""
    texts = {replica: time.isoformat() for replica, time in times.items()}
    _change(session, model, version, lambda known: {**known, **texts})


def save_now(session: GroupSession, model: str, version: int, replicas: Iterable[str] | None = None) -> None:
    """Note that `replicas` (None: all of the session) hold the version now; one that has a time keeps it.

    A number is loaded once only, so a wait that runs again is for the same load.
    """
    now = session.clock.now().isoformat()
    names = tuple(session.clients if replicas is None else replicas)
    _change(session, model, version, lambda known: {**dict.fromkeys(names, now), **known})


def read(documents: StateDocuments, group: str, model: str, version: int) -> dict[str, str]:
    """Return the times by replica, empty for a version whose load was never waited for."""
    document = documents.read(_key(group, model, version))
    return {} if document is None else from_json(LoadedSince, document.body).replicas


def delete(documents: StateDocuments, group: str, model: str, version: int) -> None:
    """Remove the times of a version, before it is loaded anew and after it was unloaded."""
    documents.delete(_key(group, model, version))


def _change(
    session: GroupSession, model: str, version: int, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    update(
        session.store.documents,
        _key(session.group.name, model, version),
        LoadedSince,
        lambda current: LoadedSince(change(current.replicas)),
        default=LoadedSince(),
        clock=session.clock,
        replace_corrupt=True,
    )


def _key(group: str, model: str, version: int) -> str:
    return f"groups/{group}/loaded/{model}/{version}.json"
