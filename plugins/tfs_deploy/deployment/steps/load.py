"""Step `load`: every replica loads the version beside what it serves; labels stay where they are."""

from __future__ import annotations

from tfs_deploy.deployment import cross_group, desired_state, validation_results
from tfs_deploy.deployment.apply import lint_change, send
from tfs_deploy.deployment.desired_state import DesiredModel
from tfs_deploy.deployment.drift import require_no_drift, require_unclaimed
from tfs_deploy.deployment.label_move import read_and_recover
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.replica_status import observe
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_requests import wait_for_agents
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.serving import waiting


def load(session: GroupSession, model: str, version: int) -> None:
    """Ask every replica to load `version` beside what is live; return before it is loaded.

    Where sync agents download the versions, this waits until the version is on every disk before it changes the
    desired state: a reload that names a missing path stops discovery for all models (contract 3.4).

    Raises NotFound (not in the store), Drift, Refused (the linter), Contention, Unreachable, and what waiting for the
    agents raises. On an error the desired state is put back, and `stable` was never touched. A version that had to be
    loaded has to be validated again, unless a label names it: a rollback never waits.
    """
    check_model_name(model)
    check_version(version)
    session.store.manifest(model, version)
    with wait_for_agents(session, model, version), hold(session, f"load of {model} version {version}") as lease:
        # Again: it may have been rejected or retired while this waited for the agents and for the lease.
        session.store.manifest(model, version)
        stored = read_and_recover(session, lease)
        status = dict(require_no_drift(session, stored.state))
        if model not in stored.state.models:
            status[model] = observe(session, model, ())
            require_unclaimed(status[model])
        if stored.tag is None:
            cross_group.require_no_foreign_model(session, stored.state)
        desired = stored.state.models.get(model) or DesiredModel(session.group.base_path(model), ())
        if version in desired.versions and version in status[model].available_everywhere():
            return
        if version not in desired.labels.values():
            # A replica did not serve it until now, or lost it in a restart: an earlier validation proves nothing.
            validation_results.invalidate(session, model, version)
        target = stored.state.with_model(model, desired.with_versions(version))
        lint_change(session, stored.state, target, status)
        changed = desired_state.write(session.store.documents, session.group, stored, target)
        errors = send(session, target, lease)
        if errors:
            desired_state.write(session.store.documents, session.group, changed, stored.state)
            send(session, stored.state, lease)
            raise next(iter(errors.values()))


def wait_until_available(session: GroupSession, model: str, version: int) -> None:
    """Wait until `version` is AVAILABLE on every replica; raises LoadFailed, DeadlineExceeded, Unreachable."""
    check_model_name(model)
    check_version(version)
    waiting.wait_until_available(session.clients, model, version, limits=session.wait, clock=session.clock)
