"""Step `undeploy`: a group stops serving a model, or one version of it that has no successor to roll back to."""

from __future__ import annotations

from dataclasses import dataclass

from tfs_deploy.deployment import cross_group, desired_state, records, validation_results
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import PREVIOUS, STABLE, DesiredModel, DesiredState
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.label_move import recover
from tfs_deploy.deployment.lease import hold, model_lease
from tfs_deploy.deployment.records import Action, DeploymentRecord
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.unload import forget_unloaded, unload
from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.names import PLACEHOLDER, check_model_name, check_version


@dataclass(frozen=True, slots=True)
class Undeployment:
    """What a group serves no more; `withdrawn` are the versions that were taken out of the store, too."""

    model: str
    versions: tuple[int, ...]
    withdrawn: tuple[int, ...]
    record: DeploymentRecord


def undeploy(
    session: GroupSession, model: str, version: int | None = None, *, reason: str = "", withdraw: bool = False
) -> Undeployment:
    """Stop serving `model`, or only `version` of it, and record that; every label on it goes.

    The files stay in the store, where other groups may serve them, unless `withdraw` says otherwise: then the numbers
    are never used again. Raises NotFound for what the group does not serve; Refused for a stable version while
    another one is `previous` (that is a rollback), and for a withdrawal of what another group serves; Drift,
    Contention, Unreachable. Running it again after an error continues.
    """
    check_model_name(model)
    served = _served(session, model, None if version is None else check_version(version))
    if withdraw:
        _require_no_other_group(session, model, served)
    require_no_drift(session)
    with hold(model_lease(session, model, "undeployment")) as lease:
        recover(session, lease, model)
        live = _remove_labels(session, model, served)
        # Before the lease ends: a promotion that follows is recorded after this.
        record = _record(session, model, served, live, reason or "undeployed")
    gone = unload(session, model, served, purpose=f"undeployment of {model}")
    withdrawn = _withdraw(session, model, served, reason) if withdraw else ()
    for number in served:
        validation_results.invalidate(session, model, number)
    forget_unloaded(session, model, gone)
    return Undeployment(model, served, withdrawn, record)


def _served(session: GroupSession, model: str, version: int | None) -> tuple[int, ...]:
    """Return the versions to take out, those included whose unload was interrupted."""
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    known = set() if desired is None else {*desired.versions, *desired.unloading}
    if desired is None or (version is not None and version not in known):
        what = f"model {model!r}" if version is None else f"version {version} of model {model!r}"
        raise NotFound(f"Group {session.group.name!r} does not serve {what}.", f"See: tfs-deploy status {model}.")
    if version is None:
        return tuple(sorted(known - {PLACEHOLDER})) or (PLACEHOLDER,)
    if desired.labels.get(STABLE) == version and desired.labels.get(PREVIOUS, version) != version:
        raise Refused(
            f"Version {version} of model {model!r} is stable, and version {desired.labels[PREVIOUS]} is there to go "
            "back to.",
            f"Run: tfs-deploy rollback {model}; then undeploy the version.",
        )
    return (version,)


def _require_no_other_group(session: GroupSession, model: str, versions: tuple[int, ...]) -> None:
    holders = cross_group.versions_in_use(session, model)
    for version in versions:
        if version in holders:
            raise Refused(
                f"Version {version} of model {model!r} is held by group {holders[version]!r} of the same store, too.",
                "Leave its files in the store, or let that group go to another version first.",
            )


def _remove_labels(session: GroupSession, model: str, versions: tuple[int, ...]) -> int:
    """Take every label off `versions` everywhere; return the version that was stable, 0 if it stays so or none was."""
    live = 0

    def remove(_: DesiredState, desired: DesiredModel | None) -> DesiredModel | None:
        nonlocal live
        if desired is None:
            return None
        stable = desired.labels.get(STABLE, 0)
        live = stable if stable in versions else 0
        labels = {label: number for label, number in desired.labels.items() if number not in versions}
        return desired.with_labels(labels).with_unloading(*(each for each in versions if each in desired.versions))

    state = desired_state.change(session, model, remove)
    send(session, state.generation, purpose=f"undeployment of {model}").raise_errors()
    return live


def _withdraw(session: GroupSession, model: str, versions: tuple[int, ...], reason: str) -> tuple[int, ...]:
    published = set(session.store.versions(model))
    withdrawn = tuple(version for version in versions if version in published)
    for version in withdrawn:
        session.store.withdraw(model, version, reason or "undeployed")
    return withdrawn


def _record(session: GroupSession, model: str, versions: tuple[int, ...], live: int, reason: str) -> DeploymentRecord:
    """Record that nothing is live any more, or that versions beside the live one were unloaded.

    A run after a crash finds the labels gone already: then the record tells what was live.
    """
    documents = session.store.documents
    latest = records.latest_move(documents, session.group.name, model)
    recorded = 0 if latest is None or latest.action is Action.UNDEPLOYED else latest.version
    was_live = live or (recorded if recorded in versions else 0)
    if was_live:
        ended = records.new_record(session, model, Action.UNDEPLOYED, 0, previous=was_live, reason=reason)
        return records.append(documents, ended)
    if latest is not None and latest.action is Action.UNDEPLOYED:
        return latest
    unloaded = [records.new_record(session, model, Action.RETIRED, each, reason=reason) for each in versions]
    return [records.append_once(documents, record) for record in unloaded][-1]
