"""The start-up config file on the agent's disk: what a model server serves after a restart, before the first reload.

The file is written only when every version that it labels is on the disk. Until then the previous file starts what was
stable before, and without a file a new model server does not start, which is better than one that cannot answer.
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
    """One file, replaced by a rename when its text changes."""

    def __init__(self, path: Path, files: Filesystem | None = None) -> None:
        self._path = path.absolute()
        self._files = files or Filesystem()

    def update(self, state: DesiredState | None, held: Set[VersionName]) -> bool:
        """Write the config of `state` (None: the group has none yet) and return whether the file is current.

        `held` are the complete versions on the disk.
        """
        text = self._read()
        if state is None:
            if text is None:
                self._write(startup_text(DesiredState()))
            return True
        labelled = {
            VersionName(name, version)
            for name, model in state.models.items()
            for version in model.current_labels.values()
        }
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
        # The lock on the model root excludes other agents, so an existing partial file is a leftover.
        partial = self._path.with_name(f".{self._path.name}.partial")
        with reporting("write", self._path, who=_WHO):
            with contextlib.suppress(FileNotFoundError):
                self._files.remove_file(partial)
            write_new_file(self._files, partial, text.encode())
            self._files.rename(partial, self._path)
            self._files.sync_folder(self._path.parent)
        logger.info("Wrote %s", self._path)
