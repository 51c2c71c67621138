"""Mode `latest`: the group serves the highest version by itself (`--model_base_path`, policy `latest`).

Traffic moves when the version loads, so all gates come first, on a throw-away server; then publish, wait, validate
again on every replica, and on failure withdraw the version (the next lower one answers). Its number is never used
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from tfs_deploy.deployment import cross_group, desired_state, records, validation_results
from tfs_deploy.deployment.agent_wait import wait_until_held
from tfs_deploy.deployment.lease import hold, model_lease
from tfs_deploy.deployment.modes.interface import Deployed, RunnerFactory, StepListener, StepTimer
from tfs_deploy.deployment.offline_validation import validate_directory
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.replica_status import GroupStatus, ReplicaStatus, observe, observe_leniently
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps import publish as publish_step
from tfs_deploy.deployment.steps import validate as validate_step
from tfs_deploy.deployment.steps.load import wait_until_available
from tfs_deploy.deployment.steps.reconcile import Reconciliation
from tfs_deploy.deployment.steps.reject import reject_on_failure, require_known_version
from tfs_deploy.deployment.steps.retire import ABANDONED_AFTER, DEFAULT_KEEP, Retirement
from tfs_deploy.deployment.steps.undeploy import Undeployment
from tfs_deploy.errors import InvalidInput, NotFound, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.serving.waiting import wait_until_gone
from tfs_deploy.store.protocol import Progress, Published
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import ValidationReport
from tfs_deploy.validation.runner import require_pass


def deploy(
    session: GroupSession,
    staged: Path,
    model: str,
    gates: Gates,
    *,
    make_runner: RunnerFactory,
    on_step: StepListener | None = None,
    on_bytes: Progress | None = None,
    idempotency_key: str = "",
) -> Deployed:
    """Validate `staged` on a throw-away server, publish it, and validate it again on every replica.

    A model server with an empty base path opens no port (contract 20.8), so replicas need not answer before the first
    version of a model is published. Raises Refused, before anything is done, for bytes that are an older version:
    such a group cannot go to it. There is one record per version, so `idempotency_key` is not needed here.
    """
    _require_no_labels(session, model)
    known = session.store.find(model, publish_step.manifest_of(staged, clock=session.clock).fingerprint)
    if known is not None:
        _require_newest(session, model, known.version)
    is_first = not session.store.versions(model)
    before = (observe_leniently if is_first else observe)(session, model, ())
    timer = StepTimer(session, on_step)
    with timer.step("validate_offline"):
        runner, live = make_runner(), _live(session, before)
        require_pass(
            validate_directory(staged, model, gates, runner=runner, clock=session.clock, live=live, wait=session.wait)
        )
    with timer.step("publish"):
        silent = {replica.target for replica in before.replicas if replica.error}
        awake = {target: client for target, client in session.clients.items() if target not in silent}
        published = publish_step.publish(replace(session, clients=awake), staged, model, progress=on_bytes)
    version = published.version.version
    with reject_on_failure(session, model, version, reject):
        with timer.step("load"):
            wait_until_held(session, model, version)
            wait_until_available(session, model, version)
        with timer.step("validate"):
            report = require_pass(validate(session, model, version, gates))
    return Deployed(published, report, _record_promotion(session, before, report), timer.seconds)


def publish(
    session: GroupSession, staged: Path, model: str, *, gates: Gates | None = None, progress: Progress | None = None
) -> Published:
    """Raise Refused: a version that is published here is live."""
    raise Refused(
        f"Group {session.group.name!r} serves the latest version by itself, so publishing is going live.",
        "Deploy it (tfs-deploy deploy, or DeployModelOperator): all gates run before it is published.",
    )


def load(session: GroupSession, model: str, version: int) -> None:
    """Raise Refused: the servers load what is published."""
    _refuse(session, "load")


def validate(session: GroupSession, model: str, version: int, gates: Gates) -> ValidationReport:
    """Run the gates on every replica, against the highest other version that it serves; return the report."""

    def live_on(replica: ReplicaStatus) -> int | None:
        return max(replica.available() - {version}, default=None)

    return validate_step.validate(session, model, version, gates, live_on=live_on)


def promote(
    session: GroupSession,
    model: str,
    version: int,
    *,
    reason: str = "",
    idempotency_key: str = "",
    quorum: int | None = None,
) -> DeploymentRecord:
    """Raise Refused: there is no label to move."""
    _refuse(session, "promote")


def set_label(session: GroupSession, model: str, label: str, version: int, *, reason: str = "") -> DeploymentRecord:
    """Raise Refused: there are no labels."""
    _refuse(session, "label")


def remove_label(session: GroupSession, model: str, label: str, *, reason: str = "") -> DeploymentRecord | None:
    """Raise Refused: there are no labels."""
    _refuse(session, "label")


def rollback(
    session: GroupSession, model: str, *, to: int | None = None, reason: str = "", idempotency_key: str = ""
) -> DeploymentRecord:
    """Withdraw the version that is live; every replica goes to the next lower one, which must have passed its gates.

    An `idempotency_key` that is in the record already is answered with its record, so that a retry does not go back
    twice. Raises InvalidInput if `to` is given, NotFound without a lower version in the store, Refused without proof
    that it passed.
    """
    if to is not None:
        raise InvalidInput(
            f"Group {session.group.name!r} serves the latest version by itself, so it can only go one version back.",
            "Leave the version to go back to out.",
        )
    check_model_name(model)
    _require_no_labels(session, model)
    with hold(model_lease(session, model, "rollback")):
        # Under the lease: the first try of a task may still be running.
        done = records.find_by_key(session, model, idempotency_key)
        done = done or _recorded_before_a_crash(session, model, idempotency_key)
        if done is None:
            pending = _begin_rollback(session, model)
            reason = reason or f"back from version {pending.live}"
            session.store.withdraw(model, pending.live, reason)
            wait_until_held(session, model, pending.target)
            wait_until_available(session, model, pending.target)
            wait_until_gone(session.clients, model, pending.live, limits=session.wait, clock=session.clock)
            record = records.new_record(session, model, Action.ROLLED_BACK, pending.target, reason=reason)
            record = replace(record, previous=pending.live, fingerprint=pending.fingerprint)
            done = records.append(session.store.documents, replace(record, idempotency_key=idempotency_key))
        session.store.documents.delete(_pending_key(session, model))
        return done


def reject(session: GroupSession, model: str, version: int, *, reason: str) -> DeploymentRecord:
    """Rename the version out of sight, wait until no replica serves it, and record that.

    Raises NotFound for a version that was never published, Refused where no other version would be left to answer, or
    another group serves this one.
    """
    check_model_name(model)
    check_version(version)
    _require_no_labels(session, model)
    require_known_version(session, model, version)
    left = [number for number in session.store.versions(model) if number != version]
    if not left:
        raise Refused(
            f"Version {version} of model {model!r} is the only one in {session.store.uri}.",
            "Publish a good version; without this one nothing would be left to answer.",
        )
    _require_no_other_group(session, model, version)
    session.store.withdraw(model, version, reason)
    wait_until_gone(session.clients, model, version, limits=session.wait, clock=session.clock)
    rejected = records.append_once(
        session.store.documents, records.new_record(session, model, Action.REJECTED, version, reason=reason)
    )
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if latest is not None and latest.version == version:
        # It had been promoted, so the next lower version answers now.
        record = records.new_record(session, model, Action.PUT_BACK, left[-1], previous=version, reason=reason)
        fingerprint = session.store.manifest(model, left[-1]).fingerprint
        records.append(session.store.documents, replace(record, fingerprint=fingerprint))
    return rejected


def retire(
    session: GroupSession,
    model: str,
    *,
    keep: int = DEFAULT_KEEP,
    dry_run: bool = False,
    abandoned_after: timedelta = ABANDONED_AFTER,
) -> Retirement:
    """Raise Refused: what is old is known by labels."""
    _refuse(session, "retire")


def reconcile(session: GroupSession) -> Reconciliation:
    """Raise Refused: every replica follows the store by itself."""
    _refuse(session, "reconcile")


def undeploy(
    session: GroupSession, model: str, version: int | None = None, *, reason: str = "", withdraw: bool = False
) -> Undeployment:
    """Raise Refused: which model is served is a start-up option of the servers."""
    _refuse(session, "undeploy")


def live_version(session: GroupSession, model: str) -> int | None:
    """Return the version that the last recorded move led to."""
    latest = records.latest_move(session.store.documents, session.group.name, model)
    return None if latest is None else latest.version


def _refuse(session: GroupSession, step: str) -> NoReturn:
    raise Refused(
        f"Group {session.group.name!r} serves the latest version by itself, so there is nothing to {step}.",
        "Use `tfs-deploy deploy`, which validates before it publishes, or run the group with labels.",
    )


def _require_no_labels(session: GroupSession, model: str) -> None:
    """Raise Refused where labels decide: taking a version out of the store's sight would unload what is live there."""
    if model in desired_state.read(session.store.documents, session.group).models:
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


def _require_no_other_group(session: GroupSession, model: str, version: int) -> None:
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


@dataclass(frozen=True, slots=True)
class _PendingRollback:
    """A rollback that has begun: a run after a crash must go the same way, not one version further."""

    live: int
    target: int
    fingerprint: str

    def is_recorded_as(self, latest: DeploymentRecord | None) -> bool:
        """Tell whether `latest`, the last move of the model, is the record of this rollback."""
        return latest is not None and (latest.version, latest.previous) == (self.target, self.live)


def _begin_rollback(session: GroupSession, model: str) -> _PendingRollback:
    """Return the rollback that was interrupted, or write down a new one."""
    documents = session.store.documents
    pending = _read_pending(session, model)
    if pending is not None:
        if not pending.is_recorded_as(records.latest_move(documents, session.group.name, model)):
            return pending
        # The interrupted one is complete but for its document: this is another rollback, from its target.
        documents.delete(_pending_key(session, model))
    live = max(observe(session, model, ()).available_everywhere(), default=None)
    lower = [version for version in session.store.versions(model) if live is not None and version < live]
    if live is None or not lower:
        raise NotFound(
            f"Model {model!r} has no version below the live one in {session.store.uri}.",
            "There is nothing to go back to: publish a good version.",
        )
    fingerprint = session.store.manifest(model, lower[-1]).fingerprint
    validation_results.require(session, model, lower[-1], fingerprint=fingerprint)
    _require_no_other_group(session, model, live)
    pending = _PendingRollback(live, lower[-1], fingerprint)
    documents.write(_pending_key(session, model), to_json(pending), expected=None)
    return pending


def _read_pending(session: GroupSession, model: str) -> _PendingRollback | None:
    """Return the rollback that was interrupted; one that a newer version has made pointless is deleted."""
    documents, key = session.store.documents, _pending_key(session, model)
    document = documents.read(key)
    pending = None if document is None else from_json(_PendingRollback, document.body)
    if pending is not None and max(session.store.versions(model), default=0) > pending.live:
        documents.delete(key)
        return None
    return pending


def _recorded_before_a_crash(session: GroupSession, model: str, idempotency_key: str) -> DeploymentRecord | None:
    """Return the record of a rollback that was complete but for deleting its document, when its caller asks again."""
    pending = _read_pending(session, model)
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if pending is None or latest is None or latest.action is not Action.ROLLED_BACK:
        return None
    return latest if latest.idempotency_key == idempotency_key and pending.is_recorded_as(latest) else None


def _pending_key(session: GroupSession, model: str) -> str:
    return f"groups/{session.group.name}/going_back/{model}.json"


def _record_promotion(session: GroupSession, before: GroupStatus, report: ValidationReport) -> DeploymentRecord:
    """Record that the version of `report` went live, once, however often its deploy is run again."""
    model, version = report.model, report.version
    latest = records.latest_move(session.store.documents, session.group.name, model)
    if latest is not None and latest.version == version:
        return latest
    # After a crash the replicas may serve only the new version, so the record comes first.
    served = max(before.available_everywhere() - {version}, default=None)
    previous = served if latest is None else latest.version or None
    record = records.new_record(session, model, Action.PROMOTED, version, previous=previous, reason=report.reason())
    return records.append(session.store.documents, replace(record, fingerprint=report.fingerprint))
