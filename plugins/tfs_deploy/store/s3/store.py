"""The store in an S3 bucket."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.protocol import ModelVersion, Progress, Published, StateDocuments
from tfs_deploy.store.s3.address import S3Address
from tfs_deploy.store.s3.attempts import Attempts
from tfs_deploy.store.s3.catalogue import Catalogue
from tfs_deploy.store.s3.choosing import open_transfer
from tfs_deploy.store.s3.connection import connect
from tfs_deploy.store.s3.documents import S3StateDocuments
from tfs_deploy.store.s3.fetching import Fetcher
from tfs_deploy.store.s3.numbering import Numbers
from tfs_deploy.store.s3.objects import Objects
from tfs_deploy.store.s3.options import S3Options
from tfs_deploy.store.s3.probe import Probe
from tfs_deploy.store.s3.publishing import Publisher
from tfs_deploy.store.s3.removal import Remover
from tfs_deploy.store.s3.tips import Tips


class S3Store:
    """Versions in ``s3://bucket/prefix/<model>/<version>/``; see `tfs_deploy.store.s3.layout`."""

    def __init__(
        self,
        uri: str,
        *,
        options: S3Options | None = None,
        clock: Clock | None = None,
        publish_wait_seconds: float = 600.0,
        lease_seconds: float = 60.0,
    ) -> None:
        """Open the store; nothing is sent yet.

        `publish_wait_seconds` is how long to wait for another publisher of the same bytes, `lease_seconds` after how
        long without a sign of life that one counts as dead.
        """
        clock = clock or SystemClock()
        connection = connect(S3Address.parse(uri), options or S3Options())
        self._address = connection.address
        objects = Objects(connection, clock)
        transfer = open_transfer(connection)
        probe = Probe(objects, endpoint=connection.endpoint, clock=clock)
        self._documents = S3StateDocuments(objects, probe)
        numbers = Numbers(objects, self._documents, probe)
        self._catalogue = Catalogue(objects, self._documents, numbers, Fetcher(objects, transfer))
        self._tips = Tips(objects, self._documents, clock)
        attempts = Attempts(self._documents, clock, lease_seconds=lease_seconds)
        self._publisher = Publisher(
            objects,
            self._documents,
            transfer=transfer,
            catalogue=self._catalogue,
            numbers=numbers,
            tips=self._tips,
            attempts=attempts,
            probe=probe,
            wait_seconds=publish_wait_seconds,
        )
        self._remover = Remover(
            objects, self._documents, numbers=numbers, tips=self._tips, attempts=attempts, probe=probe, clock=clock
        )

    @property
    def uri(self) -> str:
        return self._address.uri

    @property
    def documents(self) -> StateDocuments:
        return self._documents

    def models(self) -> tuple[str, ...]:
        return self._catalogue.models()

    def tip(self, model: str) -> str:
        return self._tips.token(model)

    def versions(self, model: str) -> tuple[int, ...]:
        return self._catalogue.versions(model)

    def manifest(self, model: str, version: int) -> Manifest:
        return self._catalogue.manifest(model, version)

    def find(self, model: str, fingerprint: str) -> ModelVersion | None:
        return self._catalogue.find(model, fingerprint)

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        return self._publisher.publish(Path(staged), manifest, model, above=above, progress=progress)

    def read(self, model: str, version: int, path: str) -> bytes:
        return self._catalogue.read(model, version, path)

    def verify(self, model: str, version: int) -> None:
        self._catalogue.verify(model, version)

    def download(self, model: str, version: int, target: Path, *, progress: Progress | None = None) -> None:
        self._catalogue.download(model, version, Path(target), progress)

    def withdraw(self, model: str, version: int, reason: str) -> None:
        self._remover.withdraw(model, version, reason)

    def delete(self, model: str, version: int) -> None:
        self._remover.delete(model, version)
