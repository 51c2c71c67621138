"""TF Serving's AvailabilityPreservingPolicy: never take away the version that answers before another is ready."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """How far the manager is with a version."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the policy sees of one version."""

    version: int
    phase: Phase
    aspired: bool


@dataclass(frozen=True, slots=True)
class Action:
    """Unload the version, or load it."""

    unload: bool
    version: int


def next_action(snapshots: Iterable[Snapshot]) -> Action | None:
    """Return what to do next for one model (contract 4.1)."""
    rows = tuple(snapshots)
    ready_unaspired = [row.version for row in rows if row.phase is Phase.READY and not row.aspired]
    any_aspired = any(row.aspired for row in rows)
    aspired_ready = any(row.aspired and row.phase is Phase.READY for row in rows)
    if ready_unaspired and (not any_aspired or aspired_ready or len(ready_unaspired) > 1):
        return Action(unload=True, version=min(ready_unaspired))
    new = [row.version for row in rows if row.aspired and row.phase is Phase.NEW]
    return Action(unload=False, version=max(new)) if new else None


def first_action(models: Mapping[str, Iterable[Snapshot]]) -> tuple[str, Action] | None:
    """Return the one action of a tick, over all models: unloads before loads, then by name."""
    actions = [(name, action) for name in sorted(models) if (action := next_action(models[name])) is not None]
    return min(actions, key=lambda pair: not pair[1].unload) if actions else None
