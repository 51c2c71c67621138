"""The interface of a store: complete model versions, and small state documents that change by compare-and-set only.

Every kind of store keeps these promises; ``tests/contract`` holds the suites that check them:

- A version is visible whole or not at all, and its files are those of its manifest.
- A version number is used once: never again after a withdrawal, a deletion or a crash.
- Numbers appear in rising order, so that a server that follows the highest one sees every version. A store that
  cannot rename claims the number first; there two publishes of one model at the same time may end in the other order.
- A second publish of the same bytes gives the existing version and writes nothing.
- A write to a state document succeeds only if the document has not changed since it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tfs_deploy.savedmodel.manifest import Manifest

# State documents are read whole and often; larger contents belong into a version.
MAX_DOCUMENT_BYTES = 16 << 20
# `Store.read` is for requests and notes in assets.extra; weights are read by the model server from its own disk.
MAX_READ_BYTES = 64 << 20

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One published version; ``uri`` is its directory path, or its address in a store that is not a file system."""

    model: str
    version: int
    fingerprint: str
    uri: str


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome of a publish; ``created`` is false if a version with these bytes existed already."""

    version: ModelVersion
    uploaded_bytes: int
    created: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A state document as it was read; ``tag`` names this state of it and no other."""

    body: bytes
    tag: str


class StateDocuments(Protocol):
    """Small documents under keys such as ``groups/default/desired.json``, changed by compare-and-set.

    Keys: see `tfs_deploy.store.documents`. No key may be a folder of another (``a`` and ``a/b``).
    """

    def read(self, key: str) -> Document | None:
        """Return the document under `key`, or None if there is none."""

    def write(self, key: str, body: bytes, *, expected: str | None) -> str:
        """Put `body` under `key` and return its tag, which no earlier write had.

        `expected` is the tag of the state that the caller read; None if the document must not exist yet.
        Raises Contention, with nothing written, if the document is in another state.
        """

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return, sorted, all keys that start with `prefix` (any string; ``""`` for all)."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Return, sorted, the next segments of the keys below `prefix` (``""``, or a path that ends with a slash).

        Only segments that other segments follow. The cost depends on their number, not on the number of keys. One may
        be left whose last document was deleted.
        """

    def delete(self, key: str) -> None:
        """Remove the document under `key`; no error if there is none."""


class Store(Protocol):
    """Where published versions live. Models and versions that do not exist are NotFound unless said otherwise."""

    @property
    def uri(self) -> str:
        """Return what `open_store` takes to open this store again."""

    @property
    def directory(self) -> Path | None:
        """Return the directory that holds the versions, None if the store is not a file system."""

    @property
    def requires_sync_agent(self) -> bool:
        """Tell whether model servers cannot read this store and sync agents must copy versions to their disks."""

    @property
    def documents(self) -> StateDocuments:
        """Return the store's state documents."""

    def models(self) -> tuple[str, ...]:
        """Return, sorted, the names of the models with at least one complete version."""

    def change_token(self, model: str) -> str:
        """Return a token that changes with every publish, withdrawal and deletion of a version of `model`.

        Read the token before `versions`, and read `versions` again when the token has changed: its cost does not depend
        on the number of versions. It may also change without a cause, and is ``""`` for an unknown model.
        """

    def versions(self, model: str) -> tuple[int, ...]:
        """Return the complete versions in rising order; empty for an unknown model."""

    def manifest(self, model: str, version: int) -> Manifest:
        """Return the manifest of a complete version."""

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        """Return the highest complete version with these bytes, or None."""

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        """Make the directory `staged` a version of `model` with the next number, above `above` and all known ones.

        `progress` gets the bytes done so far, out of ``manifest.total_bytes``, never from two threads at once.
        Raises CorruptModel, with nothing visible, if `staged` does not hold what `manifest` says.
        """

    def read(self, model: str, version: int, path: str) -> bytes:
        """Return one file of a complete version, at most MAX_READ_BYTES of it (InvalidInput if it is larger)."""

    def verify(self, model: str, version: int) -> None:
        """Read every byte of a complete version; raise CorruptModel naming the first file that is wrong."""

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        """Copy every file of a complete version below the existing directory `target`, the manifest last.

        Files of an earlier, interrupted download are kept if their size and digest are right; everything that is not
        part of the version is removed. All files are flushed to the disk before this returns. `progress` is that of
        `publish`. Raises CorruptModel naming a file that differs from the manifest; `target` has no manifest then.
        """

    def withdraw(self, model: str, version: int, reason: str) -> None:
        """Hide a version from model servers and keep its files; no error if it is withdrawn already."""

    def delete(self, model: str, version: int) -> None:
        """Hide a version and remove its files; no error if it is deleted already. The number stays used."""

    def put_placeholder(self, model: str) -> None:
        """Show model servers the placeholder of `model` (`tfs_deploy.savedmodel.placeholder`); no error if it is there.

        It is no version of the store: no other method knows it. A store that requires sync agents does nothing: they
        have the placeholder in their own package. Raises Refused if something else has its number.
        """

    def remove_placeholder(self, model: str) -> None:
        """Hide the placeholder from model servers and remove it; no error if there is none."""
