"""The store in an S3 bucket."""

from __future__ import annotations

import logging
from pathlib import Path

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import Contention, NotFound, Refused
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.documents import write_withdrawal
from tfs_deploy.store.object_store.address import WITHDRAWN_MANIFEST_PATH, S3Address, folder, manifest_name
from tfs_deploy.store.object_store.catalogue import Catalogue, StoreParts
from tfs_deploy.store.object_store.connection import S3Options, connect
from tfs_deploy.store.object_store.publishing import Publisher
from tfs_deploy.store.protocol import Progress, Published, StateDocuments

log = logging.getLogger(__name__)


class S3Store(Catalogue):
    """Versions in ``s3://bucket/prefix/<model>/<version>/``; see `tfs_deploy.store.object_store.address`.

    A withdrawal and a deletion remove the manifest first, so that the version is no longer complete.
    """

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

        `publish_wait_seconds` is how long to wait for another publisher of the same bytes, `lease_seconds` how long
        after its last renewal that publisher counts as dead.
        """
        connection = connect(S3Address.parse(uri), options or S3Options())
        super().__init__(StoreParts.of(connection, clock or SystemClock(), lease_seconds=lease_seconds))
        self._publisher = Publisher(self._parts, self, wait_seconds=publish_wait_seconds)

    @property
    def uri(self) -> str:
        return self._objects.address.uri

    @property
    def directory(self) -> Path | None:
        return None

    @property
    def requires_sync_agent(self) -> bool:
        return True

    @property
    def documents(self) -> StateDocuments:
        return self._parts.documents

    def publish(
        self, staged: Path, manifest: Manifest, model: str, *, above: int = 0, progress: Progress | None = None
    ) -> Published:
        return self._publisher.publish(Path(staged), manifest, model, above=above, progress=progress)

    def withdraw(self, model: str, version: int, reason: str) -> None:
        """Rename the manifest, which makes the version incomplete, and note the reason."""
        name = manifest_name(check_model_name(model), check_version(version))
        manifest = self._objects.get(name)
        if manifest is None:
            self._check_known(model, version)
        self._parts.conditional_writes.check()
        if manifest is not None:
            self._parts.numbers.claim(model, version, note="withdrawn")
            self._objects.put(folder(model, version) + WITHDRAWN_MANIFEST_PATH, manifest.body)
            self._end_publish(model, version)
            self._parts.change_tokens.announce(model, version)
            self._objects.delete(name)
            log.info("Withdrew version %s of model %s: %s", version, model, reason)
        write_withdrawal(self._parts.documents, model, version, reason, self._parts.clock)
        # Also completes a withdrawal that died before this line.
        self._parts.change_tokens.complete(model, version)

    def delete(self, model: str, version: int) -> None:
        """Remove the manifest, then the files."""
        name = manifest_name(check_model_name(model), check_version(version))
        complete = self._objects.head(name) is not None
        if not complete:
            self._check_known(model, version)
        self._parts.conditional_writes.check()
        self._end_publish(model, version, refuse_running=not complete)
        self._parts.numbers.claim(model, version, note="deleted")
        if complete:
            self._parts.change_tokens.announce(model, version)
            log.info("Deleting version %s of model %s", version, model)
            self._objects.delete(name)
        start = folder(model, version)
        self._objects.abort_uploads(start)
        self._objects.delete_all(stored.name for stored in self._objects.list(start))
        self._parts.change_tokens.complete(model, version)

    def put_placeholder(self, model: str) -> None:
        """Do nothing: each sync agent has the placeholder in its own package."""
        check_model_name(model)

    def remove_placeholder(self, model: str) -> None:
        """Do nothing; see `put_placeholder`."""
        check_model_name(model)

    def _check_known(self, model: str, version: int) -> None:
        if self._parts.numbers.is_claimed(model, version):
            return
        if next(self._objects.list(folder(model, version), limit=1), None) is not None:
            raise Refused(
                f"Version {version} of model {model!r} was not published by tfs_deploy: "
                f"'{self._objects.address.uri}/{model}/{version}' has no manifest.",
                "Remove it by hand if it is not needed.",
            )
        raise NotFound(
            f"Model {model!r} has no version {version} in {self._objects.address.uri!r}.", "Check the number."
        )

    def _end_publish(self, model: str, version: int, *, refuse_running: bool = False) -> None:
        """End every publish under this number; with `refuse_running` raise Contention if one is running."""
        digits = self._parts.numbers.claimant(model, version)
        if digits is None or len(digits) != 64:
            return
        if refuse_running and self._parts.leases.running_version(model, digits) == version:
            raise Contention(
                f"Version {version} of model {model!r} is being published right now.",
                "Wait until that publish is done, then run the same step again.",
            )
        self._parts.leases.revoke(model, digits, version)
