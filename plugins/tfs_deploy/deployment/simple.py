"""The protocol for a group that serves the latest version by itself (`--model_base_path`, policy `latest`).

Traffic moves when the version loads, so all gates come first, on a throw-away server; then publish, wait, validate
again on every replica, and on failure take the version back (the next lower one answers) and burn its number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from tfs_deploy.deployment import evidence, record
from tfs_deploy.deployment.held_everywhere import wait_until_held
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.load import wait_until_available
from tfs_deploy.deployment.observe import GroupStatus, observe, observe_leniently
from tfs_deploy.deployment.publish import publish
from tfs_deploy.deployment.record import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.throwaway import validate_directory
from tfs_deploy.deployment.validate import validate
from tfs_deploy.errors import LoadFailed, NotFound, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.serving.waiting import wait_until_gone
from tfs_deploy.store.protocol import Published
from tfs_deploy.validation.candidate import LiveVersion
from tfs_deploy.validation.gates import Gates
from tfs_deploy.validation.run import require_pass
from tfs_deploy.validation.verdict import ValidationReport, Verdict

Step = Callable[[str], AbstractContextManager[None]]


def deploy_latest(
    session: GroupSession, staged: Path, model: str, gates: Gates, *, runner: ModelServerRunner, steps: Step
) -> tuple[Published, ValidationReport, DeploymentRecord]:
    """Validate `staged` on a throw-away server, publish it, and validate it again on every replica.

    A model server with an empty base path opens no port (contract 20.8), so where the store holds no version yet
    nobody has to answer before the first one is published.
    """
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
        published = publish(replace(session, clients=awake), staged, model)
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
    previous = max(before.available_everywhere() - {version}, default=None)
    done = _record_move(session, model, Action.PROMOTED, version, previous, report.reason(), report.fingerprint)
    return published, report, done


def rollback_latest(session: GroupSession, model: str, *, reason: str = "", request: str = "") -> DeploymentRecord:
    """Withdraw the version that is live; every replica goes to the next lower one, which must have passed its gates.

    A `request` that was carried out already is answered with its record, so that a retry does not go back twice.
    Raises NotFound without a lower version in the store, Refused without proof that it passed.
    """
    latest = record.latest_move(session.store.documents, session.group.name, model)
    if request and latest is not None and latest.request == request:
        return latest
    with hold(session, f"rollback of {model}"):
        way = _begin_going_back(session, model)
        told = reason or f"back from version {way.live}"
        session.store.withdraw(model, way.live, told)
        wait_until_held(session, model, way.target)
        wait_until_available(session, model, way.target)
        wait_until_gone(session.clients, model, way.live, limits=session.wait, clock=session.clock)
        done = _record_move(session, model, Action.ROLLED_BACK, way.target, way.live, told, way.fingerprint, request)
        session.store.documents.delete(_way_key(session, model))
        return done


@dataclass(frozen=True, slots=True)
class _WayBack:
    """A rollback that has begun: a run after a crash must go the same way, not one version further."""

    live: int
    target: int
    fingerprint: str


def _begin_going_back(session: GroupSession, model: str) -> _WayBack:
    documents = session.store.documents
    begun = documents.read(_way_key(session, model))
    if begun is not None:
        return from_json(_WayBack, begun.body)
    live = max(observe(session, model, ()).available_everywhere(), default=None)
    lower = [version for version in session.store.versions(model) if live is not None and version < live]
    if live is None or not lower:
        raise NotFound(
            f"Model {model!r} has no version below the live one in {session.store.uri}.",
            "There is nothing to go back to: publish a good version.",
        )
    fingerprint = session.store.manifest(model, lower[-1]).fingerprint
    evidence.require(documents, session.group.name, model, lower[-1], fingerprint=fingerprint)
    way = _WayBack(live, lower[-1], fingerprint)
    documents.write(_way_key(session, model), to_json(way), expected=None)
    return way


def _way_key(session: GroupSession, model: str) -> str:
    return f"groups/{session.group.name}/going_back/{model}.json"


def withdraw(session: GroupSession, model: str, version: int, *, reason: str) -> None:
    """Rename the version out of sight, wait until every replica let go of it, and record that."""
    lower = [number for number in session.store.versions(model) if number != version]
    if not lower:
        raise Refused(
            f"Version {version} of model {model!r} failed ({reason}), but it is the only one in {session.store.uri}.",
            "Publish a good version; taking this one away would leave nothing to answer.",
        )
    session.store.withdraw(model, version, reason)
    wait_until_gone(session.clients, model, version, limits=session.wait, clock=session.clock)
    gone = record.draft(session, model, Action.REJECTED, version, reason=reason)
    record.append(session.store.documents, gone)


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
    done = record.draft(session, model, action, version, **more)
    return record.append(session.store.documents, done)
