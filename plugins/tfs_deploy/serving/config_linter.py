"""Refuse a model server config that TF Serving would accept and then fail on (contract 5, 15, 20.10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tfs_deploy.errors import Refused
from tfs_deploy.serving.config import ModelEntry, base_path_error


def lint(
    proposed: Iterable[ModelEntry],
    *,
    current: Iterable[ModelEntry] = (),
    available: Mapping[str, frozenset[int]],
    removed: frozenset[str] = frozenset(),
    path_exists: Callable[[str], bool] = lambda path: True,
) -> None:
    """Raise Refused if sending `proposed` to replicas that run `current` would break an invariant.

    `available` holds, per model, the versions that are AVAILABLE on every replica; `removed` the models that are
    meant to disappear; `path_exists` tells whether a base path exists as the model servers see it.
    """
    before = {entry.name: entry for entry in current}
    after = {entry.name: entry for entry in proposed}
    for lost in sorted(set(before) - set(after) - removed):
        _refuse(
            f"The new config leaves out model {lost!r}, which the group serves.",
            "A reload replaces the whole config, so list every model of the group.",
        )
    for entry in after.values():
        _lint_path(entry, path_exists)
        _lint_labels(entry, before.get(entry.name), available.get(entry.name, frozenset()))
        _lint_overlap(entry, before.get(entry.name), available.get(entry.name, frozenset()))


def _lint_path(entry: ModelEntry, path_exists: Callable[[str], bool]) -> None:
    error = base_path_error(entry.base_path, f" of model {entry.name!r}")
    if error is not None:
        _refuse(*error)
    if entry.base_path.startswith("/") and not path_exists(entry.base_path):
        _refuse(
            f"The base path {entry.base_path} of model {entry.name!r} does not exist, and that stops the discovery "
            "of new versions of every model on the server.",
            "Publish a version first, or correct the model root of the group.",
        )


def _lint_labels(entry: ModelEntry, before: ModelEntry | None, available: frozenset[int]) -> None:
    if not entry.versions:
        _refuse(
            f"The new config lists no version of model {entry.name!r}, so all of them would unload.",
            "Keep at least the version that is labelled stable.",
        )
    current = before.labels if before else {}
    for label, version in sorted(entry.labels.items()):
        if version not in entry.versions:
            _refuse(
                f"Label {label!r} of model {entry.name!r} names version {version}, which the config does not list: "
                "it would unload and the label would answer NOT_FOUND.",
                f"Keep version {version} listed as long as a label names it.",
            )
        if current.get(label) != version and version not in available:
            _refuse(
                f"Label {label!r} of model {entry.name!r} would move to version {version}, which is not AVAILABLE "
                "on every replica.",
                f"Load version {version} first and wait for it.",
            )


def _lint_overlap(entry: ModelEntry, before: ModelEntry | None, available: frozenset[int]) -> None:
    if before is None:
        return
    labelled = {version for version in before.labels.values() if version in available}
    dropped = sorted(labelled - set(entry.versions))
    if dropped:
        _refuse(
            f"The new config drops version {dropped[0]} of model {entry.name!r} while a label names it.",
            "Move the label first: versions overlap, so that a failed successor leaves the model served.",
        )


def _refuse(cause: str, remedy: str) -> None:
    raise Refused(cause, remedy)
