"""Whether every replica of a group was named: a step that is told of some of them would leave the others behind."""

from __future__ import annotations

from tfs_deploy.deployment import records
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.replica_status import ReplicaStatus, replica_status
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Refused, TFSDeployError
from tfs_deploy.validation.report import ValidationReport


def require_all(session: GroupSession, report: ValidationReport) -> None:
    """Raise Refused if a replica that was not named still answers `stable` of the model of `report`.

    Asked are those on which the version was validated or that the last move of `stable` reached. One of the latter
    that holds the version already is a replica that was named, under another name. Nobody is asked for a group whose
    name resolves to its replicas, because the resolver knows who is in it.
    """
    if session.reach is None or session.group.discovered:
        return
    latest = records.latest_move(session.store.documents, session.group.name, report.model)
    known = {*report.replicas, *(latest.replicas if latest else ())}
    for target in sorted(known - set(session.group.replicas)):
        found = _look(session, target, report.model)
        same_by_another_name = target not in report.replicas and report.version in found.available()
        if STABLE in found.labels and not same_by_another_name:
            raise Refused(
                f"Replica {target} of group {session.group.name!r} answers `stable` of model {report.model!r} from "
                f"version {found.labels[STABLE]}, and it was not named.",
                "Name every replica of the group; stop a server that is no longer one of them.",
            )


def _look(session: GroupSession, target: str, model: str) -> ReplicaStatus:
    """Return what a server says that may not be there any more; nothing if it does not answer."""
    assert session.reach is not None
    client = session.reach(target)
    try:
        return replica_status(client, model, (STABLE,), session.timeouts.status)
    except TFSDeployError:
        return ReplicaStatus(target)
    finally:
        client.close()
