"""``tfs-deploy sync`` with a store whose bytes come slowly, or not at all: a program of its own, run as a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tfs_deploy.cli.main import run_program as run
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.protocol import Progress

SECONDS = float(os.environ["SECONDS_PER_BLOCK"])
_download = LocalStore.download


def download(self: LocalStore, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
    def slowly(done: int) -> None:
        time.sleep(SECONDS)
        if progress is not None:
            progress(done)

    _download(self, model, version, target, progress=slowly)


LocalStore.download = download
run()
