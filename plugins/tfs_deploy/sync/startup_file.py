"""The start-up config file beside an agent: what a model server that restarts here serves before anybody speaks to it.

It is written when every version that it names is on this disk, and not before: the file from before comes up with what
was stable then, and without one a new model server does not start, which is better than one that starts and lacks
answers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Set
from pathlib import Path

from tfs_deploy.deployment.desired_state import DesiredState
from tfs_deploy.deployment.startup_config import startup_text
from tfs_deploy.store.local.filesystem import Filesystem, reporting, write_new_file
from tfs_deploy.sync.plan import VersionName

logger = logging.getLogger(__name__)

_WHO = "The sync agent"


class StartupFile:
    """One file, replaced by a rename and only if its text changes."""

    def __init__(self, path: Path, files: Filesystem | None = None) -> None:
        self._path = path.absolute()
        self._files = files or Filesystem()

    def bring_up_to_date(self, state: DesiredState | None, held: Set[VersionName]) -> bool:
        """Write what `state` says (None: the group has none yet), and return whether the file says just that now.

        `held` are the versions that are complete here.
        """
        text = self._read()
        if state is None:
            if text is None:
                self._write(startup_text(DesiredState()))
            return True
        labelled = {VersionName(name, version) for name in state.models for version in state.labels(name).values()}
        if not labelled <= held:
            return False
        wanted = startup_text(state)
        if wanted != text:
            self._write(wanted)
        return True

    def _read(self) -> str | None:
        with reporting("read", self._path, who=_WHO):
            try:
                return self._path.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                return None

    def _write(self, text: str) -> None:
        # One name for all: the lock on the model root keeps other agents away, so one that is there is a leftover.
        partial = self._path.with_name(f".{self._path.name}.partial")
        with reporting("write", self._path, who=_WHO):
            with contextlib.suppress(FileNotFoundError):
                self._files.remove_file(partial)
            write_new_file(self._files, partial, text.encode())
            self._files.rename(partial, self._path)
            self._files.sync_folder(self._path.parent)
        logger.info("Wrote %s", self._path)
