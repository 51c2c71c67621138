"""Bring the files of a version into a directory: the side of a download that is the same for every store."""

from __future__ import annotations

import os
from pathlib import Path

from tfs_deploy.errors import NotFound
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.download.large_files import PIECE_BYTES, LargeFiles
from tfs_deploy.store.download.small_files import SmallFiles
from tfs_deploy.store.download.state import WHO, DownloadState, Source
from tfs_deploy.store.local.filesystem import Filesystem, remove_tree, reporting, write_new_file
from tfs_deploy.store.protocol import Progress

# Files above this size are few and fill the line or the disk; smaller ones wait for answers, and fit the memory.
LARGE_FILE_BYTES = 8 << 20


class DownloadTarget:
    """Puts what `source` gives for each file of `manifest` into a directory, and checks every digest on the way."""

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        *,
        where: str,
        threads: int = 4,
        pieces: int = 4,
        progress: Progress | None = None,
        files: Filesystem | None = None,
        large_bytes: int = LARGE_FILE_BYTES,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """`where` names the version in errors.

        `threads` is how many small files are fetched at a time, `pieces` how many pieces of large ones.
        """
        self._manifest = manifest
        self._files = files or Filesystem()
        self._state = DownloadState(where, progress, self._files)
        self._small = SmallFiles(source, self._state, threads=threads)
        self._large = LargeFiles(source, self._state, connections=pieces, piece_bytes=piece_bytes)
        self._large_bytes = large_bytes

    def fill(self, target: Path) -> None:
        """Fill the directory `target`; see `tfs_deploy.store.protocol.Store.download`."""
        if not target.is_dir():
            raise NotFound(f"The directory {str(target)!r} to download into does not exist.", "Create it first.")
        paths = [entry.path for entry in self._manifest.files]
        folders = {parent for path in [*paths, MANIFEST_PATH] for parent in Path(path).parents} - {Path()}
        with reporting("clear", target, who=WHO):
            self._clear(target, {target / path for path in paths}, {target / folder for folder in folders})
        for folder in sorted(folders):  # sorted: a parent comes before what is in it
            if not (target / folder).is_dir():
                with reporting("create", target / folder, who=WHO):
                    self._files.make_folder(target / folder)
        # The largest first, so that no thread starts on one when the others are done.
        entries = sorted(self._manifest.files, key=lambda entry: -entry.size)
        self._large.download([entry for entry in entries if entry.size > self._large_bytes], target)
        self._small.download([entry for entry in entries if entry.size <= self._large_bytes], target)
        path = target / MANIFEST_PATH
        # The manifest says that the rest is complete: the rest is on the disk before it.
        for folder in sorted({Path(), *folders}):
            self._flush_folder(target / folder)
        with reporting("write", path, who=WHO):
            write_new_file(self._files, path, to_json(self._manifest))
        self._flush_folder(path.parent)

    def _clear(self, folder: Path, wanted: set[Path], folders: set[Path]) -> None:
        """Remove what is not part of the version, and the manifest, which would call the directory complete."""
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if path in folders:
                    self._clear(path, wanted, folders)
                else:
                    remove_tree(self._files, path)
            elif path not in wanted or not entry.is_file(follow_symlinks=False):
                self._files.remove_file(path)
            else:
                self._state.present.add(path)

    def _flush_folder(self, folder: Path) -> None:
        with reporting("flush", folder, who=WHO):
            self._files.sync_folder(folder)
