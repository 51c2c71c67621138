"""Steps `load` and `wait`: every replica holds the version beside what it serves; labels stay where they are."""

from __future__ import annotations

from tfs_deploy.deployment import cross_group, desired_state, validation_results
from tfs_deploy.deployment.apply import lint_change, send
from tfs_deploy.deployment.desired_state import DesiredModel
from tfs_deploy.deployment.label_move import read_and_recover
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.replica_status import observe, require_no_drift, require_unclaimed
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.sync_requests import wait_for_agents
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.serving import waiting


def load(session: GroupSession, model: str, version: int) -> None:
    """Ask every replica to load `version`, always in overlap with what is live; returns before it is loaded.

    Where sync agents bring the versions, the replicas and the desired state hear of this one only when it is on every
    disk: a reload that names a path which is not there stops discovery for all models (contract 3.4).

    Raises NotFound (not in the store), Drift, Refused (the linter), Contention, Unreachable, and what waiting for the
    agents raises. On an error the desired state is put back, and `stable` was never touched. A version that had to be
    loaded has to be validated again, unless a label names it: going back never waits.
    """
    check_model_name(model)
    check_version(version)
    session.store.manifest(model, version)
    with (
        wait_for_agents(session, model, version),
        hold(session, f"load of {model} version {version}") as lease,
    ):
        # Again: it may have been rejected or retired while this waited for the disks and for the lease.
        session.store.manifest(model, version)
        held = read_and_recover(session, lease)
        status = dict(require_no_drift(session, held.state))
        if model not in held.state.models:
            status[model] = observe(session, model, ())
            require_unclaimed(status[model])
        if held.tag is None:
            cross_group.require_apart(session, held.state)
        before = held.state.models.get(model) or DesiredModel(session.group.base_path(model), ())
        if version in before.versions and version in status[model].available_everywhere():
            return
        if version not in before.labels.values():
            # Some replica has not had it until now, or has lost it in a restart: what was seen there is past.
            validation_results.invalidate(session.store.documents, session.group.name, model, version)
        wanted = held.state.with_model(model, before.listing(version))
        lint_change(session, held.state, wanted, status)
        changed = desired_state.write(session.store.documents, session.group, held, wanted)
        errors = send(session, wanted, lease)
        if errors:
            desired_state.write(session.store.documents, session.group, changed, held.state)
            send(session, held.state, lease)
            raise next(iter(errors.values()))


def wait_until_available(session: GroupSession, model: str, version: int) -> None:
    """Wait until `version` is AVAILABLE on every replica; raises LoadFailed, DeadlineExceeded, Unreachable."""
    check_model_name(model)
    check_version(version)
    waiting.wait_until_available(session.clients, model, version, limits=session.wait, clock=session.clock)
