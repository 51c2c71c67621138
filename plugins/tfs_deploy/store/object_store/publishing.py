"""Publish in S3: claim a number, send the files, write the manifest last."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from tfs_deploy.errors import Contention, CorruptModel, TFSDeployError
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel.manifest import Manifest, hex_of
from tfs_deploy.store.documents import write_pointer
from tfs_deploy.store.object_store.address import WITHDRAWN_MANIFEST_PATH, folder, manifest_name, state
from tfs_deploy.store.object_store.catalogue import Catalogue, StoreParts
from tfs_deploy.store.object_store.errors import PreconditionFailed
from tfs_deploy.store.object_store.publish_lease import PublishAttempt, PublishLease, attempt_key
from tfs_deploy.store.object_store.version_files import Sender
from tfs_deploy.store.protocol import ModelVersion, Progress, Published
from tfs_deploy.store.staged import StagedFiles, check_input, check_signatures, corrupt_existing

log = logging.getLogger(__name__)

# A publish of the same bytes can continue a dead one for this long; then its leftovers are swept.
_KEPT_FOR = timedelta(days=7)


class Publisher:
    """Publishes into one store.

    Unlike on a disk the number is claimed first, since objects cannot be renamed. Everything before the manifest is
    invisible and can be repeated.
    """

    def __init__(self, parts: StoreParts, catalogue: Catalogue, *, wait_seconds: float) -> None:
        self._parts = parts
        self._objects = parts.objects
        self._catalogue = catalogue
        self._wait_seconds = wait_seconds

    def publish(
        self, directory: Path, manifest: Manifest, model: str, *, above: int, progress: Progress | None
    ) -> Published:
        """Make `directory` a version of `model`; see `tfs_deploy.store.protocol.Store.publish`."""
        check_input(directory, manifest, model, above)
        check_signatures(directory, manifest)
        self._parts.conditional_writes.check()
        staged = StagedFiles(directory, manifest, progress)
        existing = self._catalogue.find(model, manifest.fingerprint)
        if existing is not None:
            return self._return_existing(existing, staged)
        for lease in self._parts.leases.acquire(model, hex_of(manifest.fingerprint), seconds=self._wait_seconds):
            if lease is not None:
                with lease.held():
                    return self._publish_under(lease, staged, model, above)
            # Another publish holds the lease: it may have finished by now.
            existing = self._catalogue.find(model, manifest.fingerprint)
            if existing is not None:
                return self._return_existing(existing, staged)
        raise AssertionError("acquire ends with a lease or an error")

    def _publish_under(self, lease: PublishLease, staged: StagedFiles, model: str, above: int) -> Published:
        existing = self._catalogue.find(model, staged.manifest.fingerprint)
        if existing is not None:
            return self._return_existing(existing, staged)
        self._sweep(model, hex_of(staged.manifest.fingerprint))
        published = self._publish_new(staged, model, above, lease)
        log.info("Published version %s of model %s", published.version.version, model)
        return published

    def _return_existing(self, existing: ModelVersion, staged: StagedFiles) -> Published:
        staged.check()
        try:
            self._catalogue.compare_sizes(existing.model, existing.version, staged.manifest)
        except CorruptModel as error:
            raise corrupt_existing(existing, error) from error
        # The leftovers of a publish that died after its manifest.
        self._parts.change_tokens.complete(existing.model, existing.version)
        self._parts.leases.clear(existing.model, hex_of(existing.fingerprint), existing.version)
        return Published(existing, uploaded_bytes=0, created=False)

    def _publish_new(self, staged: StagedFiles, model: str, above: int, lease: PublishLease) -> Published:
        manifest = staged.manifest
        sender = Sender(staged, self._objects, self._parts.transfer, model=model, beat=lease.renew_when_due)
        sender.check_names()
        resumed = lease.version > max(above, 0) and not self._is_withdrawn(model, lease.version)
        if lease.version and not resumed and not self._is_withdrawn(model, lease.version):
            self._remove_files(model, lease.version)
        if not resumed:
            lease.set_version(self._parts.numbers.claim_next(model, above=above, note=manifest.fingerprint))
        else:
            log.info("Continuing version %s of model %s, whose publish was interrupted", lease.version, model)
            self._objects.abort_uploads(folder(model, lease.version))
        try:
            sent = sender.send(lease.version, resumed=resumed)
            # Another publish that took over may have noted another number for these bytes.
            lease.renew()
            return self._commit(manifest, model, lease, sent)
        except BaseException:
            self._drop_uploads(model, lease)
            raise

    def _commit(self, manifest: Manifest, model: str, lease: PublishLease, sent: int) -> Published:
        number = lease.version
        # Before the manifest: after a crash the next publish finds a complete version by its bytes.
        write_pointer(self._parts.documents, model, manifest.fingerprint, number)
        self._parts.change_tokens.announce(model, number)
        lease.renew()
        version = self._catalogue.version(model, number, manifest.fingerprint)
        try:
            self._objects.create(manifest_name(model, number), to_json(manifest), metadata={"attempt": lease.owner})
        except PreconditionFailed:
            created = False  # another publish of the same bytes was faster
        else:
            created = True
            self._undo_if_superseded(lease, version, manifest)
        self._parts.change_tokens.complete(model, number)
        return Published(version, uploaded_bytes=sent, created=created)

    def _undo_if_superseded(self, lease: PublishLease, version: ModelVersion, manifest: Manifest) -> None:
        """Remove the manifest again if another publish created the version and it was removed meanwhile.

        S3 cannot create an object on the condition that another one is unchanged, so this check follows the creation.
        """
        try:
            lease.renew()
        except Contention as error:
            if self._is_intact(version, manifest):
                return
            self._objects.delete(manifest_name(version.model, version.version))
            raise Contention(
                f"Version {version.version} of model {version.model!r} was published by another process and removed "
                "while this publish was delayed.",
                "Run the same step again if the version is still wanted; it gets a new number.",
            ) from error

    def _is_intact(self, version: ModelVersion, manifest: Manifest) -> bool:
        if self._is_withdrawn(version.model, version.version):
            return False
        try:
            self._catalogue.compare_sizes(version.model, version.version, manifest)
        except CorruptModel:
            return False
        return True

    def _drop_uploads(self, model: str, lease: PublishLease) -> None:
        """Drop unfinished uploads, which no publish can continue; whole objects stay for the next attempt."""
        try:
            lease.renew()
            self._objects.abort_uploads(folder(model, lease.version))
        except Contention:
            # The objects belong to the publish that took over, unless that one uses another number.
            self._remove_if_unused(model, lease)
        except TFSDeployError as error:
            log.info("The next publish drops the unfinished uploads of version %s: %s", lease.version, error)

    def _remove_if_unused(self, model: str, lease: PublishLease) -> None:
        """Remove the objects of this publish if the one that took over uses another number."""
        try:
            if not self._parts.leases.may_continue(lease):
                self._remove_dead(model, lease.version)
        except TFSDeployError as error:
            log.warning("Files of version %s of model %s may be left: %s", lease.version, model, error)

    def _sweep(self, model: str, own_digits: str) -> None:
        """Remove the leftovers of publishes that died long ago; the cost depends on their number only."""
        start = state(f"attempts/{model}/")
        for listed in list(self._objects.list(start)):
            digits = listed.name[len(start) :]
            if digits == own_digits or self._objects.seconds_since(listed.modified) < _KEPT_FOR.total_seconds():
                continue
            attempt = self._parts.documents.read_as(PublishAttempt, attempt_key(model, digits))
            if attempt is None:
                continue
            try:
                # With the lease: a new publish of those bytes waits, and then gets a new number.
                lease = next(self._parts.leases.acquire(model, digits, seconds=0))
                if lease is not None:
                    with lease.held():
                        self._remove_dead(model, lease.version)
            except TFSDeployError as error:
                log.warning("Could not remove what a dead publish of model %s left: %s", model, error)

    def _remove_dead(self, model: str, version: int) -> None:
        if version and not self._catalogue.is_complete(model, version) and not self._is_withdrawn(model, version):
            log.info("Removing version %s of model %s, whose publish died", version, model)
            self._remove_files(model, version)

    def _is_withdrawn(self, model: str, version: int) -> bool:
        return self._objects.head(folder(model, version) + WITHDRAWN_MANIFEST_PATH) is not None

    def _remove_files(self, model: str, version: int) -> None:
        start = folder(model, version)
        self._objects.abort_uploads(start)
        self._objects.delete_all(listed.name for listed in self._objects.list(start))
