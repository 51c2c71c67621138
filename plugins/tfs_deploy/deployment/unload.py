"""Take versions off the replicas: out of the desired state first, then wait until no replica holds them.

No lease is held during the wait. Meanwhile the versions are listed as `unloading`, so that nobody loads them again
before their files are gone.
"""

from __future__ import annotations

from tfs_deploy.deployment import desired_state, loaded_since, placeholder
from tfs_deploy.deployment.apply import send
from tfs_deploy.deployment.desired_state import DesiredModel, DesiredState
from tfs_deploy.deployment.drift import require_no_drift
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Refused, StoreError
from tfs_deploy.names import PLACEHOLDER
from tfs_deploy.serving.waiting import wait_until_gone


def unload(session: GroupSession, model: str, versions: tuple[int, ...], *, purpose: str) -> tuple[int, ...]:
    """Unload `versions` of `model` from every replica and wait for that; run again after an error, it continues.

    A placeholder goes with the last version. Returns `versions`, and the placeholder if no replica holds it any more:
    what to call `forget_unloaded` with once the files of the versions are gone. Raises Refused for a version that a
    label names, Drift, Contention, Unreachable, DeadlineExceeded.
    """

    def take_out(_: DesiredState, desired: DesiredModel | None) -> DesiredModel | None:
        if desired is None:
            return None
        for version in versions:
            _require_unlabelled(model, desired, version)
        # Also those that are not listed: nobody may list them before their files are gone.
        left = desired.with_unloading(*versions)
        return left.with_unloading(PLACEHOLDER) if PLACEHOLDER in left.versions and not left.real_versions else left

    # Before drift: a mistake of the caller is the better answer.
    take_out(DesiredState(), desired_state.read(session.store.documents, session.group).models.get(model))
    require_no_drift(session)
    state = desired_state.change(session, model, take_out)
    # Sent even if nothing was left to change: an interrupted run may not have sent it.
    sent = send(session, state.generation, purpose=purpose, again=True)
    sent.raise_errors()
    leaving = {*versions, *(state.models[model].unloading if model in state.models else ())}
    for version in sorted(leaving):
        wait_until_gone(session.clients, model, version, limits=session.wait, clock=session.clock)
    if sent.startup_error is not None:
        raise StoreError(sent.startup_error.cause, sent.startup_error.remedy)
    return (*versions, PLACEHOLDER) if PLACEHOLDER in leaving else versions


def forget_unloaded(session: GroupSession, model: str, versions: tuple[int, ...]) -> None:
    """Drop `versions`, which no replica holds, from the desired state; a model without any version is dropped too.

    So are versions that left the store already: a deployer that died has unloaded and removed them. The files of a
    placeholder among `versions` are removed first.
    """

    def drop(_: DesiredState, desired: DesiredModel | None) -> DesiredModel | None:
        if desired is None:
            return None
        left = desired.forgetting(*gone)
        return left if left.versions or left.unloading else None

    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    gone = {version for version in versions if version != PLACEHOLDER}
    if desired is not None and desired.unloading:
        stored = session.store.versions(model)
        gone |= {version for version in desired.unloading if version not in (PLACEHOLDER, *stored)}
    if PLACEHOLDER in versions and placeholder.remove(session, model):
        gone.add(PLACEHOLDER)
    desired_state.change(session, model, drop)
    for version in versions:
        loaded_since.delete(session.store.documents, session.group.name, model, version)


def drop_placeholder(session: GroupSession, model: str) -> None:
    """Unload the placeholder of `model` once a version is loaded beside it; run again after an error, it continues.

    Raises Contention, Unreachable, DeadlineExceeded.
    """
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    if desired is None or PLACEHOLDER not in (*desired.versions, *desired.unloading):
        return

    def take_out(_: DesiredState, current: DesiredModel | None) -> DesiredModel | None:
        if current is None or PLACEHOLDER not in current.versions or current.versions == (PLACEHOLDER,):
            return current
        return current.with_unloading(PLACEHOLDER)

    state = desired_state.change(session, model, take_out)
    send(session, state.generation, purpose=f"end of the placeholder of {model}", again=True).raise_errors()
    wait_until_gone(session.clients, model, PLACEHOLDER, limits=session.wait, clock=session.clock)
    forget_unloaded(session, model, (PLACEHOLDER,))


def _require_unlabelled(model: str, desired: DesiredModel, version: int) -> None:
    moving = desired.move.labels if desired.move else {}
    for label, number in (*desired.labels.items(), *moving.items()):
        if number == version:
            raise Refused(
                f"Version {version} of model {model!r} carries the label {label!r}.",
                "Move the label first: what is live or needed for rollback is never taken away.",
            )
