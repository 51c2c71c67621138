"""Take versions on a file system out of a model server's sight, and remove them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tfs_deploy.errors import NotFound, Refused
from tfs_deploy.names import check_model_name, check_version, served_number
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.store.documents import update
from tfs_deploy.store.local.filesystem import remove_below, remove_tree, reporting
from tfs_deploy.store.local.layout import LocalLayout
from tfs_deploy.store.local.numbering import deleting_number, names_in, withdrawn_number

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The document ``withdrawn/<model>/<version>``; ``at`` is ISO 8601 in UTC."""

    reason: str
    at: str


class Remover:
    """Withdraws and deletes versions of one store; both begin with a rename, so a server sees all or nothing."""

    def __init__(self, layout: LocalLayout) -> None:
        self._layout = layout

    def withdraw(self, model: str, version: int, reason: str) -> None:
        """Rename every directory that a model server would serve as `version`, and note the reason."""
        base = self._layout.base(check_model_name(model))
        check_version(version)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, base) as changes:
            served = [name for name in names_in(base) if served_number(name) == version]
            if not served:
                self._check_known(model, version)
            for name in served:
                target = base / f"{version}.withdrawn"
                if target.exists():
                    target = base / f"{version}.withdrawn-{uuid4().hex[:8]}"
                self._rename(base / name, target)
                log.info("Withdrew version %s of model %s: %s", version, model, reason)
            # After the rename, which needs no space on the disk and cannot wait.
            self._layout.numbers.claim(model, version, note="withdrawn")
            changes.used(version)
        self._note(model, version, reason)

    def delete(self, model: str, version: int) -> None:
        """Rename the version's directories to names that nobody reads, then remove them."""
        base = self._layout.base(check_model_name(model))
        check_version(version)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, base) as changes:
            found = [name for name in names_in(base) if version in {served_number(name), withdrawn_number(name)}]
            if not found:
                self._check_known(model, version)
            for name in found:
                self._check_ours(base / name, model, version)
            self._layout.numbers.claim(model, version, note="deleted")
            changes.used(version)
            for name in found:
                doomed = f".deleting-{version}-{uuid4().hex[:8]}"
                self._rename(base / name, base / doomed)
                changes.appeared(doomed)
                log.info("Deleting version %s of model %s", version, model)
        for name in names_in(base):
            if deleting_number(name) == version:
                self._remove(model, base / name)

    def _remove(self, model: str, doomed: Path) -> None:
        with reporting("remove", doomed):
            remove_below(self._layout.files, doomed)
        with self._layout.names_lock(model), self._layout.directory_cache.changing(model, doomed.parent) as changes:
            with reporting("remove", doomed):
                remove_tree(self._layout.files, doomed)
            changes.vanished(doomed.name)

    def _rename(self, source: Path, target: Path) -> None:
        with reporting("rename", source):
            self._layout.files.rename(source, target)
            self._layout.files.sync_folder(source.parent)

    def _check_known(self, model: str, version: int) -> None:
        known = self._layout.numbers.claimed(model)
        known |= {number for name in names_in(self._layout.base(model)) if (number := withdrawn_number(name))}
        if version not in known:
            raise NotFound(
                f"Model {model!r} has no version {version} in {str(self._layout.root)!r}.", "Check the number."
            )

    def _check_ours(self, directory: Path, model: str, version: int) -> None:
        if not (directory / MANIFEST_PATH).is_file():
            raise Refused(
                f"Version {version} of model {model!r} is not from tfs_deploy: {str(directory)!r} has no manifest.",
                "Remove it by hand if nobody needs it.",
            )

    def _note(self, model: str, version: int, reason: str) -> None:
        """Keep the first reason; a repeated withdrawal says nothing new."""
        withdrawal = Withdrawal(reason, self._layout.clock.now().isoformat())
        update(
            self._layout.documents,
            f"withdrawn/{model}/{version}",
            Withdrawal,
            lambda known: known or withdrawal,
            clock=self._layout.clock,
            replace_corrupt=True,
        )
