"""The protocol for a group that serves the latest version by itself (`--model_base_path`, policy `latest`).

Traffic moves when the version loads, so all gates come first, on a throw-away server; then publish, wait, validate
again on every replica, and on failure take the version back (the next lower one answers) and burn its number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from tfs_deploy.deployment import cross_group, desired_state, records, validation_results
from tfs_deploy.deployment.agent_wait import wait_until_held
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.offline_validation import validate_directory
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import GroupStatus, observe, observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.load import wait_until_available
from tfs_deploy.deployment.steps.publish import add_version, manifest_of
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import LoadFailed, NotFound, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.serving.waiting import wait_until_gone
from tfs_deploy.store.protocol import Published
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import ValidationReport, Verdict
from tfs_deploy.validation.runner import require_pass

Step = Callable[[str], AbstractContextManager[None]]


def deploy_latest(
    session: GroupSession, staged: Path, model: str, gates: Gates, *, runner: ModelServerRunner, steps: Step
) -> tuple[Published, ValidationReport, DeploymentRecord]:
    """Validate `staged` on a throw-away server, publish it, and validate it again on every replica.

    A model server with an empty base path opens no port (contract 20.8), so where the store holds no version yet
    nobody has to answer before the first one is published. Raises Refused for bytes that are an older version, which
    such a group cannot go to, before anything is done.
    """
    _require_by_itself(session, model)
    known = session.store.find(model, manifest_of(staged, clock=session.clock).fingerprint)
    if known is not None:
        _require_newest(session, model, known.version)
    first = not session.store.versions(model)
    before = (observe_leniently if first else observe)(session, model, ())
    with steps("rehearse"):
        live = _live(session, before)
        require_pass(
            validate_directory(staged, model, gates, runner=runner, clock=session.clock, live=live, wait=session.wait)
        )
    with steps("publish"):
        waiting_for_it = {replica.target for replica in before.replicas if replica.error}
        awake = {target: client for target, client in session.clients.items() if target not in waiting_for_it}
        published = add_version(replace(session, clients=awake), staged, model)
    version = published.version.version
    with steps("load"):
        try:
            wait_until_held(session, model, version)
            wait_until_available(session, model, version)
        except LoadFailed as error:
            withdraw(session, model, version, reason=error.cause)
            raise
    with steps("validate"):
        report = validate(session, model, version, gates)
        if report.verdict is Verdict.FAIL:
            withdraw(session, model, version, reason=report.reason())
        require_pass(report)
    return published, report, _record_promotion(session, before, report)


def _record_promotion(session: GroupSession, before: GroupStatus, report: ValidationReport) -> DeploymentRecord:
    """Record that the version of `report` went live, once, however often its deploy is run again."""
    model, version = report.model, report.version
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if latest is not None and latest.version == version:
        return latest
    # A run after a crash finds nothing but the new version on the replicas, so the record knows better.
    seen = max(before.available_everywhere() - {version}, default=None)
    previous = (latest.version or None) if latest is not None else seen
    return _record_move(session, model, Action.PROMOTED, version, previous, report.reason(), report.fingerprint)


def _require_by_itself(session: GroupSession, model: str) -> None:
    """Raise Refused where labels decide: taking a version out of the store's sight would unload what is live there."""
    if model in desired_state.read(session.store.documents, session.group).state.models:
        raise Refused(
            f"Group {session.group.name!r} serves model {model!r} by labels, and here it is said to serve the latest "
            "version by itself.",
            "Set the group's mode to labels; if its servers were really changed, give it another name.",
        )


def _require_newest(session: GroupSession, model: str, version: int) -> None:
    newest = max(session.store.versions(model), default=version)
    if version < newest:
        raise Refused(
            f"These bytes are version {version} of model {model!r}, and group {session.group.name!r} serves the "
            f"highest one by itself, which is version {newest}.",
            f"Roll back to go to version {version}, or export the model again, so that it gets a new number.",
        )


def rollback_latest(session: GroupSession, model: str, *, reason: str = "", request: str = "") -> DeploymentRecord:
    """Withdraw the version that is live; every replica goes to the next lower one, which must have passed its gates.

    A `request` that was carried out already is answered with its record, so that a retry does not go back twice.
    Raises NotFound without a lower version in the store, Refused without proof that it passed.
    """
    _require_by_itself(session, model)
    with hold(session, f"rollback of {model}"):
        # Under the lease: the first try of a task may still be at it.
        done = records.find_by_key(session, model, request) or _ended_by_a_crash(session, model, request)
        if done is None:
            way = _begin_going_back(session, model)
            told = reason or f"back from version {way.live}"
            session.store.withdraw(model, way.live, told)
            wait_until_held(session, model, way.target)
            wait_until_available(session, model, way.target)
            wait_until_gone(session.clients, model, way.live, limits=session.wait, clock=session.clock)
            done = _record_move(
                session, model, Action.ROLLED_BACK, way.target, way.live, told, way.fingerprint, request
            )
        session.store.documents.delete(_way_key(session, model))
        return done


@dataclass(frozen=True, slots=True)
class _PendingRollback:
    """A rollback that has begun: a run after a crash must go the same way, not one version further."""

    live: int
    target: int
    fingerprint: str

    def is_through(self, latest: DeploymentRecord | None) -> bool:
        """Tell whether `latest`, the last move of the model, is the record of this rollback."""
        return latest is not None and (latest.version, latest.previous) == (self.target, self.live)


def _ended_by_a_crash(session: GroupSession, model: str, request: str) -> DeploymentRecord | None:
    """Return the record of a rollback that was through but for the last step, when its caller asks again."""
    way = _begun(session, model)
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if way is None or latest is None or latest.request != request or latest.action is not Action.ROLLED_BACK:
        return None
    return latest if way.is_through(latest) else None


def _begun(session: GroupSession, model: str) -> _PendingRollback | None:
    """Return the rollback that was begun and not ended; one that was left for a newer version is forgotten."""
    documents, key = session.store.documents, _way_key(session, model)
    begun = documents.read(key)
    way = None if begun is None else from_json(_PendingRollback, begun.body)
    if way is not None and max(session.store.versions(model), default=0) > way.live:
        documents.delete(key)
        return None
    return way


def _begin_going_back(session: GroupSession, model: str) -> _PendingRollback:
    documents = session.store.documents
    begun = _begun(session, model)
    latest = records.latest_move(documents, session.group.name, model)
    if begun is not None and begun.is_through(latest):
        # It was through: this is another rollback, from where that one led to.
        documents.delete(_way_key(session, model))
        begun = None
    if begun is not None:
        return begun
    live = max(observe(session, model, ()).available_everywhere(), default=None)
    lower = [version for version in session.store.versions(model) if live is not None and version < live]
    if live is None or not lower:
        raise NotFound(
            f"Model {model!r} has no version below the live one in {session.store.uri}.",
            "There is nothing to go back to: publish a good version.",
        )
    fingerprint = session.store.manifest(model, lower[-1]).fingerprint
    validation_results.require(documents, session.group.name, model, lower[-1], fingerprint=fingerprint)
    _require_unneeded(session, model, live)
    way = _PendingRollback(live, lower[-1], fingerprint)
    documents.write(_way_key(session, model), to_json(way), expected=None)
    return way


def _way_key(session: GroupSession, model: str) -> str:
    return f"groups/{session.group.name}/going_back/{model}.json"


def withdraw(session: GroupSession, model: str, version: int, *, reason: str) -> None:
    """Rename the version out of sight, wait until every replica let go of it, and record that.

    Raises Refused where nothing would be left to answer, or another group holds the version.
    """
    _require_by_itself(session, model)
    left = [number for number in session.store.versions(model) if number != version]
    if not left:
        raise Refused(
            f"Version {version} of model {model!r} failed ({reason}), but it is the only one in {session.store.uri}.",
            "Publish a good version; taking this one away would leave nothing to answer.",
        )
    _require_unneeded(session, model, version)
    session.store.withdraw(model, version, reason)
    wait_until_gone(session.clients, model, version, limits=session.wait, clock=session.clock)
    gone = records.draft(session, model, Action.REJECTED, version, reason=reason)
    records.append_once(session.store.documents, gone)
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if latest is not None and latest.version == version:
        # It had been promoted, so something else answers now.
        fingerprint = session.store.manifest(model, left[-1]).fingerprint
        _record_move(session, model, Action.PUT_BACK, left[-1], version, reason, fingerprint)


def _require_unneeded(session: GroupSession, model: str, version: int) -> None:
    holder = cross_group.versions_in_use(session, model).get(version)
    if holder is not None:
        raise Refused(
            f"Version {version} of model {model!r} is held by group {holder!r} of the same store, too.",
            "Let that group go to another version first; what is live is never taken away.",
        )


def _live(session: GroupSession, status: GroupStatus) -> LiveVersion | None:
    for replica in status.replicas:
        available = replica.available()
        if available:
            return LiveVersion(session.clients[replica.target], max(available))
    return None


def _record_move(
    session: GroupSession,
    model: str,
    action: Action,
    version: int,
    previous: int | None,
    reason: str,
    fingerprint: str,
    request: str = "",
) -> DeploymentRecord:
    more = {"previous": previous, "reason": reason, "fingerprint": fingerprint, "request": request}
    done = records.draft(session, model, action, version, **more)
    return records.append(session.store.documents, done)
