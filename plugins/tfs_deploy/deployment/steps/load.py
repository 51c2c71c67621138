"""Step `load`: every replica loads the version beside what it serves; labels stay where they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime

from tfs_deploy.deployment import cross_group, desired_state, loaded_since, placeholder, validation_results
from tfs_deploy.deployment.apply import lint_change, send
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState
from tfs_deploy.deployment.drift import require_no_drift, require_unclaimed
from tfs_deploy.deployment.replica_status import GroupStatus, observe
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_requests import wait_for_agents
from tfs_deploy.deployment.unload import drop_placeholder
from tfs_deploy.errors import NotFound, Refused, TFSDeployError, Transient
from tfs_deploy.names import PLACEHOLDER, check_model_name, check_version
from tfs_deploy.serving import waiting
from tfs_deploy.serving.replies import VersionState

logger = logging.getLogger(__name__)

# Twice the usual poll period of a server's file system (contract 2).
_POLL_SECONDS = 2.0


def load(session: GroupSession, model: str, version: int) -> None:
    """Ask every replica to load `version` beside what is live; return before it is loaded.

    Where sync agents download the versions, this waits until the version is on every disk before it changes the
    desired state: a reload that names a missing path stops discovery for all models (contract 3.4).

    Raises NotFound (not in the store), Drift, Refused (the linter), Contention, Unreachable, and what waiting for the
    agents raises. On an error the version is taken out of the desired state, and `stable` was never touched. A version
    that had to be loaded has to be validated again, unless a label names it: a rollback never waits.
    """
    check_model_name(model)
    check_version(version)
    session.store.manifest(model, version)
    with wait_for_agents(session, model, version):
        _load(session, model, version)


def _load(session: GroupSession, model: str, version: int) -> None:
    desired, status = _observed(session, model)
    if desired is not None and version not in desired.labelled and _has_failed(status[model], version):
        # A server tries a load again only after the version was not listed for a poll (contract 4.3).
        _take_back(session, model, version)
        session.clock.sleep(_POLL_SECONDS)
        desired = desired_state.read(session.store.documents, session.group).models.get(model)
    if desired is None or not desired.real_versions:
        _introduce(session, model, status)
    listed = desired is not None and version in desired.versions
    if listed and version in status[model].available_everywhere():
        return
    if desired is None or version not in desired.labelled:
        # A replica did not serve it until now, or lost it in a restart: an earlier validation proves nothing.
        validation_results.invalidate(session, model, version)
    changed = _list_version(session, model, version, status)
    sent = send(session, changed.generation, purpose=f"load of version {version} of {model}", again=listed)
    if sent.errors:
        _take_back(session, model, version)
        sent.raise_errors()


def _observed(session: GroupSession, model: str) -> tuple[DesiredModel | None, dict[str, GroupStatus]]:
    """Return what the group should serve of `model` (None: the name is new) and the status of all its models."""
    state, statuses = require_no_drift(session)
    status = dict(statuses)
    if model not in state.models:
        status[model] = observe(session, model, ())
        # Read after the status: another deployer may have introduced the model meanwhile.
        state = desired_state.read(session.store.documents, session.group)
        if model not in state.models:
            require_unclaimed(status[model])
            if not desired_state.exists(session.store.documents, session.group):
                cross_group.require_no_foreign_model(session, state)
    return state.models.get(model), status


def _list_version(session: GroupSession, model: str, version: int, status: Mapping[str, GroupStatus]) -> DesiredState:
    """Add `version` to the desired state and return that; raise Refused while it is on its way out."""

    def add(current: DesiredState, model_now: DesiredModel | None) -> DesiredModel:
        base = model_now or DesiredModel(session.group.base_path(model), ())
        if version in base.unloading:
            raise Refused(
                f"Version {version} of model {model!r} is being unloaded from group {session.group.name!r}.",
                "It was rejected or retired: publish a new version.",
            )
        added = base.with_versions(version)
        lint_change(session, current, current.with_model(model, added), status)
        return added

    changed = desired_state.change(session, model, add)
    try:
        # Again: only now that it is listed would a rejection or a retirement wait for its unload.
        session.store.manifest(model, version)
    except NotFound:
        _take_back(session, model, version)
        raise
    return changed


def _introduce(session: GroupSession, model: str, status: Mapping[str, GroupStatus]) -> None:
    """Let the group serve a new model name by its placeholder, so that the first version loads outside the reload."""
    logger.info("Model %s is new to group %s: its first version loads behind a placeholder", model, session.group.name)

    def add(current: DesiredState, model_now: DesiredModel | None) -> DesiredModel:
        if model_now is not None and model_now.real_versions:
            return model_now
        base = model_now or DesiredModel(session.group.base_path(model), ())
        introduced = base.with_versions(PLACEHOLDER).forgetting(PLACEHOLDER)
        lint_change(session, current, current.with_model(model, introduced), status)
        return introduced

    with placeholder.laid_down(session, model):
        changed = desired_state.change(session, model, add)
        try:
            sent = send(session, changed.generation, purpose=f"first config of {model}")
            sent.raise_errors()
            waiting.wait_until_available(session.clients, model, PLACEHOLDER, limits=session.wait, clock=session.clock)
        except TFSDeployError:
            _take_back(session, model, PLACEHOLDER)
            raise


def _has_failed(status: GroupStatus, version: int) -> bool:
    """Tell whether the load of `version` ended with an error on a replica."""
    rows = (row for replica in status.replicas for row in replica.versions if row.version == version)
    return any(row.state is VersionState.END and row.error_code != "OK" for row in rows)


def _take_back(session: GroupSession, model: str, version: int) -> None:
    """Take a version that a replica refused to load out of the desired state, unless it is in use meanwhile."""

    def remove(_: DesiredState, desired: DesiredModel | None) -> DesiredModel | None:
        if desired is None or version in desired.labelled:
            return desired
        left = desired.without(version)
        if not left.real_versions and PLACEHOLDER in left.versions:
            left = left.with_unloading(PLACEHOLDER)
        return left if left.versions or left.unloading else None

    state = desired_state.change(session, model, remove)
    send(session, state.generation, purpose=f"removal of version {version} of {model}")
    if model in state.models and PLACEHOLDER in state.models[model].unloading:
        drop_placeholder(session, model)


def wait_until_available(session: GroupSession, model: str, version: int) -> None:
    """Wait until `version` is AVAILABLE on every replica; raises LoadFailed, DeadlineExceeded, Unreachable."""
    check_model_name(model)
    check_version(version)
    moments = waiting.wait_until_available(session.clients, model, version, limits=session.wait, clock=session.clock)
    finish_load(session, model, version, waiting.to_wall_clock(moments, session.clock))


def finish_load(session: GroupSession, model: str, version: int, available_at: Mapping[str, datetime]) -> None:
    """Note since when each replica serves `version`, and drop the placeholder of its model, if there is one."""
    loaded_since.save(session, model, version, available_at)
    try:
        drop_placeholder(session, model)
    except Transient as error:
        # No fault of the version, which answers: the next step of the model drops it.
        logger.warning("The placeholder of model %s is still served: %s", model, error)
