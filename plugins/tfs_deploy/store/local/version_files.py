"""The files of a version in a directory, as a download takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import CorruptModel, StoreError
from tfs_deploy.savedmodel.manifest import FileEntry
from tfs_deploy.store.local.filesystem import reporting

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files below `directory`; `where` names the version in errors."""

    directory: Path
    where: str

    def begin(self, entry: FileEntry) -> None:
        """See `tfs_deploy.store.download.state.Source`; the first block will tell."""

    def blocks(self, entry: FileEntry, start: int, end: int) -> Iterator[bytes]:
        """See `tfs_deploy.store.download.state.Source`."""
        path = self.directory / entry.path
        try:
            with reporting("read", path), path.open("rb", buffering=0) as stream:
                stream.seek(start)
                # One byte more than there should be in the whole file shows that there is more.
                left = end - start + (end == entry.size)
                while left and (block := stream.read(min(_BLOCK_BYTES, left))):
                    left -= len(block)
                    yield block
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise CorruptModel(
                    f"The file {entry.path!r} of {self.where} is missing.",
                    "Withdraw that version and publish the model again.",
                ) from error
            raise
