"""What an agent should do next, from what is needed and what its disk shows. Pure: no files, no store, no clock."""

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
class Need:
    """What a model server beside the agent needs on the disk.

    `models` get a folder each, with or without versions. `versions` come in the order of their urgency. `highest` is
    given for models whose server takes the highest number that it sees: what is above was taken back by the store.
    `without` are the models that have no version to bring yet.
    """

    models: tuple[str, ...] = ()
    versions: tuple[VersionName, ...] = ()
    highest: Mapping[str, int] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskView:
    """What the disk shows.

    `folders`: models that have their folder; `shown`: every number that a model server would see, whoever put it
    there; `ours`: those of them that hold a manifest of ours; `held`: those of them that are the store's bytes;
    `staged`: versions that are on their way.
    """

    folders: Set[str] = frozenset()
    shown: Set[VersionName] = frozenset()
    ours: Set[VersionName] = frozenset()
    held: Set[VersionName] = frozenset()
    staged: Set[VersionName] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: make folders first, then bring, most urgent first; remove and discard at any time."""

    make_folders: tuple[str, ...] = ()
    bring: tuple[VersionName, ...] = ()
    remove: tuple[VersionName, ...] = ()
    discard: tuple[VersionName, ...] = ()


def plan(need: Need, disk: DiskView, *, keep: int, rested: Set[VersionName]) -> Plan:
    """Return what is to be done.

    `keep` is how many versions of each model stay beyond the needed ones, the newest first; `rested` are the versions
    that have not been needed for long enough to go. What carries no manifest of ours is never touched (invariant I5),
    and nothing of a model goes while something that it needs is missing: a server that lags behind may live on it.
    """
    needed = frozenset(need.versions)
    waiting = {name.model for name in needed - disk.held}
    withdrawn = _withdrawn(need, disk) - needed
    spare = disk.ours - needed - withdrawn
    over = {name for model in {name.model for name in spare} - waiting for name in _beyond(model, spare, keep)}
    remove = (over & rested) | _safe_to_take_back(withdrawn, need, disk)
    return Plan(
        make_folders=tuple(model for model in need.models if model not in disk.folders),
        bring=tuple(name for name in need.versions if name not in disk.shown),
        remove=tuple(sorted(remove)),
        discard=tuple(sorted(disk.staged - (needed - disk.shown))),
    )


def _withdrawn(need: Need, disk: DiskView) -> frozenset[VersionName]:
    """Return the versions that the store has taken back from under a server that follows the highest number."""
    return frozenset(
        name for name in disk.ours if name.model in need.highest and name.version > need.highest[name.model]
    )


def _safe_to_take_back(names: Iterable[VersionName], need: Need, disk: DiskView) -> set[VersionName]:
    """Return those whose successor is there: an empty base path would unload the last version (contract 3.4)."""
    return {name for name in names if VersionName(name.model, need.highest[name.model]) in disk.held}


def _beyond(model: str, spare: Set[VersionName], keep: int) -> list[VersionName]:
    newest_first = sorted((name for name in spare if name.model == model), reverse=True)
    return newest_first[keep:]
