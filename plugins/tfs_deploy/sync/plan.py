"""The next actions of an agent, from the required versions and the contents of its disk. Pure: no files, no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple


class VersionName(NamedTuple):
    """One version of one model."""

    model: str
    version: int

    def __str__(self) -> str:
        return f"version {self.version} of {self.model}"


@dataclass(frozen=True, slots=True)
class RequiredVersions:
    """What the model server beside the agent needs on the disk.

    `models` get a folder each, with or without versions; `versions` are in order of urgency. `placeholders` come
    from the package and not from the store. `highest` is the highest version in the store for models whose server
    follows the highest number: the store has withdrawn every version above. `without` are the models that have no
    version yet.
    """

    models: tuple[str, ...] = ()
    versions: tuple[VersionName, ...] = ()
    placeholders: tuple[VersionName, ...] = ()
    highest: Mapping[str, int] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskView:
    """The contents of the disk, as the plan needs them.

    `folders`: models with a folder; `shown`: every version that a model server sees; `ours`: those of `shown` with a
    manifest of tfs_deploy; `held`: those of `ours` that equal the store's version; `staged`: incomplete downloads.
    """

    folders: Set[str] = frozenset()
    shown: Set[VersionName] = frozenset()
    ours: Set[VersionName] = frozenset()
    held: Set[VersionName] = frozenset()
    staged: Set[VersionName] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions: make folders, then download, most urgent first; remove versions and discard stages at any time."""

    make_folders: tuple[str, ...] = ()
    download: tuple[VersionName, ...] = ()
    remove: tuple[VersionName, ...] = ()
    discard: tuple[VersionName, ...] = ()


def plan(required: RequiredVersions, disk: DiskView, *, keep: int, expired: Set[VersionName]) -> Plan:
    """Return the next actions.

    `keep` is how many versions of each model stay beyond the required ones, the newest first; `expired` are the
    versions that have not been required for the linger time. Versions without a manifest of tfs_deploy stay (invariant
    I5). While a required version of a model is missing, all versions of that model stay: a server that lags behind may
    still answer from one of them.
    """
    needed = frozenset(required.versions)
    waiting = {name.model for name in needed - disk.held}
    withdrawn = _withdrawn(required, disk) - needed
    spare = disk.ours - needed - withdrawn
    over = {name for model in {name.model for name in spare} - waiting for name in _beyond(model, spare, keep)}
    remove = (over & expired) | _safe_to_remove(withdrawn, required, disk)
    return Plan(
        make_folders=tuple(model for model in required.models if model not in disk.folders),
        download=tuple(name for name in required.versions if name not in disk.shown),
        remove=tuple(sorted(remove)),
        discard=tuple(sorted(disk.staged - (needed - disk.shown))),
    )


def _withdrawn(required: RequiredVersions, disk: DiskView) -> frozenset[VersionName]:
    """Return the versions that the store has withdrawn, of models whose server follows the highest number."""
    return frozenset(
        name for name in disk.ours if name.model in required.highest and name.version > required.highest[name.model]
    )


def _safe_to_remove(names: Iterable[VersionName], required: RequiredVersions, disk: DiskView) -> set[VersionName]:
    """Return those whose model's highest version is held: an empty base path unloads the last one (contract 3.4)."""
    return {name for name in names if VersionName(name.model, required.highest[name.model]) in disk.held}


def _beyond(model: str, spare: Set[VersionName], keep: int) -> list[VersionName]:
    newest_first = sorted((name for name in spare if name.model == model), reverse=True)
    return newest_first[keep:]
