"""Step `retire`: old versions are unloaded, then deleted; what is live or needed for a rollback stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tfs_deploy.deployment import cross_group, desired_state, loaded_since, records, validation_results
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.unload import forget_unloaded, unload
from tfs_deploy.errors import InvalidInput, NotFound
from tfs_deploy.names import check_model_name

DEFAULT_KEEP = 3
# A deploy that waits for an approval over night is still under way.
ABANDONED_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Retirement:
    """Which versions of a model were (or would be) deleted, and which stay; `abandoned` are among the former."""

    model: str
    retired: tuple[int, ...]
    kept: tuple[int, ...]
    dry_run: bool
    abandoned: tuple[int, ...] = ()


def retire(
    session: GroupSession,
    model: str,
    *,
    keep: int = DEFAULT_KEEP,
    dry_run: bool = False,
    abandoned_after: timedelta = ABANDONED_AFTER,
) -> Retirement:
    """Delete every version older than the stable one, except labelled ones and the newest `keep` of them.

    A version newer than the stable one may be on its way through a deploy: it is deleted if it never was live, carries
    no label, and nothing was done with it for `abandoned_after`. Files go only after every replica says END (I5). A
    version that another group of the store serves keeps its files; only this group's replicas unload it. Raises
    InvalidInput, NotFound, Refused, Drift, Contention, Unreachable.
    """
    check_model_name(model)
    if keep < 0:
        raise InvalidInput(f"Cannot keep {keep} versions.", "Give a number from 0.")
    if abandoned_after < timedelta(0):
        raise InvalidInput(f"Nothing is abandoned after {abandoned_after}.", "Give a time from 0.")
    older = _versions_to_retire(session, model, keep)
    abandoned = _abandoned(session, model, abandoned_after)
    versions = (*older, *abandoned)
    if dry_run:
        return _plan(session, model, versions, abandoned, dry_run=True)
    gone: tuple[int, ...] = ()
    if versions:
        gone = unload(session, model, versions, purpose=f"retirement of old versions of {model}")
    done = _plan(session, model, versions, abandoned, dry_run=False)
    for version in done.retired:
        # Before the files go: a run after a crash would find no version to retire, and record nothing.
        reason = "older than the versions that are kept"
        if version in abandoned:
            reason = f"nobody went on with its deploy for {abandoned_after}"
        record = records.new_record(session, model, Action.RETIRED, version, reason=reason)
        records.append_once(session.store.documents, record)
        session.store.delete(model, version)
    forget_unloaded(session, model, gone)
    return done


def _abandoned(session: GroupSession, model: str, after: timedelta) -> tuple[int, ...]:
    """Return the versions above the stable one that nobody deploys any more: loaded, or left by a step that died."""
    desired = desired_state.read(session.store.documents, session.group).models.get(model)
    if desired is None:
        return ()
    stable = desired.labels.get(STABLE, 0)
    # A step that died after it took a version off the replicas has left its files and its entry in `unloading`.
    left = set(desired.unloading).intersection(session.store.versions(model))
    listed = sorted({*desired.real_versions, *left})
    candidates = [each for each in listed if each > stable and each not in desired.labelled]
    return tuple(version for version in candidates if _is_abandoned(session, model, version, after))


def _is_abandoned(session: GroupSession, model: str, version: int, after: timedelta) -> bool:
    documents, group = session.store.documents, session.group.name
    events = records.first_events(documents, group, model, version)
    if any(event.action in records.MOVES_STABLE for event in events):
        # It was live once, and may be what somebody wants to go back to.
        return False
    report = validation_results.read(documents, group, model, version)
    # The record of a retirement that died before the files were gone is no sign of a deploy.
    times = [event.at for event in events if event.action is not Action.RETIRED]
    times += loaded_since.read(documents, group, model, version).values()
    times += [report.at] if report is not None else []
    newest = max(map(datetime.fromisoformat, times), default=None)
    return newest is not None and session.clock.now() - newest >= after


def _plan(
    session: GroupSession, model: str, versions: tuple[int, ...], abandoned: tuple[int, ...], *, dry_run: bool
) -> Retirement:
    in_use = cross_group.versions_in_use(session, model) if versions else {}
    retired = tuple(version for version in versions if version not in in_use)
    kept = tuple(version for version in session.store.versions(model) if version not in retired)
    return Retirement(model, retired, kept, dry_run, tuple(each for each in abandoned if each in retired))


def _versions_to_retire(session: GroupSession, model: str, keep: int) -> tuple[int, ...]:
    state = desired_state.read(session.store.documents, session.group)
    labels = state.labels(model)
    published = session.store.versions(model)
    if not published and model not in state.models:
        raise NotFound(
            f"Neither the store nor group {session.group.name!r} knows model {model!r}.",
            "Check the name, or publish a version of it.",
        )
    labelled = state.models[model].labelled if model in state.models else frozenset()
    older = [version for version in published if version < labels.get(STABLE, 0) and version not in labelled]
    return tuple(older[: max(0, len(older) - keep)])
