"""The other serving groups of a store: one store may feed staging and production, each with its own labels.

All groups share the files of a version. By a mistake in a group's name they may even share a model server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.replica_status import observe
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Refused
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.protocol import StateDocuments

_PREFIX = "groups/"


def versions_in_use(session: GroupSession, model: str) -> Mapping[int, str]:
    """Return, by version of `model`, the name of another group that serves it or may roll back to it.

    A group without a desired state serves the latest version by itself: its versions are those of the last move.
    """
    documents = session.store.documents
    holders: dict[int, str] = {}
    for name in _other_groups(session):
        state = _desired_state(documents, name)
        if state is None:
            versions = _versions_by_record(documents, name, model)
        else:
            desired = state.models.get(model)
            versions = {*desired.versions, *desired.labelled} if desired else set()
        holders.update(dict.fromkeys(versions, name))
    return holders


def require_no_foreign_model(session: GroupSession, state: DesiredState) -> None:
    """Raise Refused if a replica serves a model of another group that `state` lacks: a reload would unload it.

    TF Serving has no RPC that returns its config or its models (contract 5.3), so the names to ask for come from the
    desired states of the other groups.
    """
    for name in _other_groups(session):
        other = _desired_state(session.store.documents, name)
        for model, desired in sorted(other.models.items() if other else ()):
            if model in state.models:
                continue
            for replica in observe(session, model, ()).replicas:
                if replica.available() & set(desired.versions):
                    raise Refused(
                        f"Replica {replica.target} serves model {model!r} of group {name!r}, and the first config of "
                        f"group {session.group.name!r} would unload it.",
                        f"Name group {name!r}, or give group {session.group.name!r} model servers of its own.",
                    )


def _other_groups(session: GroupSession) -> Iterator[str]:
    return (name for name in session.store.documents.folders(_PREFIX) if name != session.group.name)


def _desired_state(documents: StateDocuments, group: str) -> DesiredState | None:
    document = documents.read(desired_state.key(group))
    return None if document is None else from_json(DesiredState, document.body)


def _versions_by_record(documents: StateDocuments, group: str, model: str) -> set[int]:
    latest = records.latest_move(documents, group, model)
    return set() if latest is None else {version for version in (latest.version, latest.previous) if version}
