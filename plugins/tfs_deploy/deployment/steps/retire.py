"""Step `retire`: old versions leave the replicas, then the store; what is live or needed for rollback stays."""

from __future__ import annotations

from dataclasses import dataclass

from tfs_deploy.deployment import cross_group, desired_state, records
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.lease import hold
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.reject import unload
from tfs_deploy.errors import InvalidInput, NotFound
from tfs_deploy.names import check_model_name

DEFAULT_KEEP = 3


@dataclass(frozen=True, slots=True)
class Retirement:
    """Which versions of a model were (or would be) deleted, and which stay."""

    model: str
    retired: tuple[int, ...]
    kept: tuple[int, ...]
    dry_run: bool


def retire(session: GroupSession, model: str, *, keep: int = DEFAULT_KEEP, dry_run: bool = False) -> Retirement:
    """Delete every version older than the stable one, except labelled ones and the newest `keep` of them.

    A version newer than the stable one may be on its way through a deploy, so it is left alone. Files go only after
    every replica says END (invariant I5); those of a version that another group of the store holds stay, and only
    this group's replicas let go of it. Raises InvalidInput, NotFound, Refused, Drift, Contention, Unreachable.
    """
    check_model_name(model)
    if keep < 0:
        raise InvalidInput(f"Cannot keep {keep} versions.", "Give a number from 0.")
    if dry_run:
        return _told(session, model, _old(session, model, keep), dry_run=True)
    with hold(session, f"retirement of old versions of {model}") as lease:
        old = _old(session, model, keep)
        if old:
            unload(session, lease, model, old)
        done = _told(session, model, old, dry_run=False)
        for version in done.retired:
            # Before the files go: a run after a crash finds no version to retire any more, and would record nothing.
            told = "older than the versions that are kept"
            gone = records.new_record(session, model, Action.RETIRED, version, reason=told)
            records.append_once(session.store.documents, gone)
            session.store.delete(model, version)
        return done


def _told(session: GroupSession, model: str, old: tuple[int, ...], *, dry_run: bool) -> Retirement:
    elsewhere = cross_group.versions_in_use(session, model) if old else {}
    retired = tuple(version for version in old if version not in elsewhere)
    kept = tuple(version for version in session.store.versions(model) if version not in retired)
    return Retirement(model, retired, kept, dry_run)


def _old(session: GroupSession, model: str, keep: int) -> tuple[int, ...]:
    state = desired_state.read(session.store.documents, session.group).state
    labels = dict(state.labels(model))
    if state.move is not None and state.move.model == model:
        labels |= {f"{label} (moving)": version for label, version in state.move.labels.items()}
    published = session.store.versions(model)
    if not published and model not in state.models:
        raise NotFound(
            f"Neither the store nor group {session.group.name!r} knows model {model!r}.",
            "Check the name, or publish a version of it.",
        )
    stable = labels.get(STABLE, 0)
    older = [version for version in published if version < stable and version not in labels.values()]
    return tuple(older[: max(0, len(older) - keep)])
