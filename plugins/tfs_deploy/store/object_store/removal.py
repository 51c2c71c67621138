"""Take versions in S3 out of everybody's sight, and remove them: the manifest goes first."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Contention, NotFound, Refused
from tfs_deploy.names import check_model_name, check_version
from tfs_deploy.store.documents import update
from tfs_deploy.store.object_store.change_token import ChangeTokens
from tfs_deploy.store.object_store.conditional_write_check import ConditionalWriteCheck
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.layout import WITHDRAWN_MANIFEST_PATH, folder, manifest_name
from tfs_deploy.store.object_store.numbering import Numbers
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.publish_lease import PublishLeases

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The document ``withdrawn/<model>/<version>``; ``at`` is ISO 8601 in UTC."""

    reason: str
    at: str


class Remover:
    """Withdraws and deletes versions of one store."""

    def __init__(
        self,
        objects: Objects,
        documents: S3StateDocuments,
        *,
        numbers: Numbers,
        change_tokens: ChangeTokens,
        leases: PublishLeases,
        conditional_writes: ConditionalWriteCheck,
        clock: Clock,
    ) -> None:
        self._objects = objects
        self._documents = documents
        self._numbers = numbers
        self._change_tokens = change_tokens
        self._leases = leases
        self._conditional_writes = conditional_writes
        self._clock = clock

    def withdraw(self, model: str, version: int, reason: str) -> None:
        """Move the manifest aside, so that the version is no longer complete, and note the reason."""
        name = manifest_name(check_model_name(model), check_version(version))
        found = self._objects.get(name)
        if found is None:
            self._check_known(model, version)
        self._conditional_writes.check()
        if found is not None:
            self._numbers.claim(model, version, note="withdrawn")
            self._objects.put(folder(model, version) + WITHDRAWN_MANIFEST_PATH, found.body)
            self._end_attempt(model, version)
            self._change_tokens.announce(model, version)
            self._objects.delete(name)
            log.info("Withdrew version %s of model %s: %s", version, model, reason)
        self._note(model, version, reason)
        # Also of a withdrawal that died before it came here.
        self._change_tokens.complete(model, version)

    def delete(self, model: str, version: int) -> None:
        """Remove the manifest, then the files."""
        name = manifest_name(check_model_name(model), check_version(version))
        complete = self._objects.head(name) is not None
        if not complete:
            self._check_known(model, version)
        self._conditional_writes.check()
        self._end_attempt(model, version, refuse_running=not complete)
        self._numbers.claim(model, version, note="deleted")
        if complete:
            self._change_tokens.announce(model, version)
            log.info("Deleting version %s of model %s", version, model)
            self._objects.delete(name)
        start = folder(model, version)
        self._objects.abort_uploads(start)
        self._objects.delete_all(found.name for found in self._objects.list(start))
        self._change_tokens.complete(model, version)

    def _check_known(self, model: str, version: int) -> None:
        if self._numbers.is_claimed(model, version):
            return
        if next(self._objects.list(folder(model, version), limit=1), None) is not None:
            raise Refused(
                f"Version {version} of model {model!r} is not from tfs_deploy: "
                f"'{self._objects.address.uri}/{model}/{version}' has no manifest.",
                "Remove it by hand if nobody needs it.",
            )
        raise NotFound(
            f"Model {model!r} has no version {version} in {self._objects.address.uri!r}.", "Check the number."
        )

    def _end_attempt(self, model: str, version: int, *, refuse_running: bool = False) -> None:
        """Let no publish go on under this number; with `refuse_running` only if none is alive."""
        digits = self._numbers.claimant(model, version)
        if digits is None or len(digits) != 64:
            return
        if refuse_running and self._leases.running_version(model, digits) == version:
            raise Contention(
                f"Version {version} of model {model!r} is being published right now.",
                "Wait until that publish is done, then run the same step again.",
            )
        self._leases.revoke(model, digits, version)

    def _note(self, model: str, version: int, reason: str) -> None:
        """Keep the first reason; a repeated withdrawal says nothing new."""
        withdrawal = Withdrawal(reason, self._clock.now().isoformat())
        update(
            self._documents,
            f"withdrawn/{model}/{version}",
            Withdrawal,
            lambda known: known or withdrawal,
            clock=self._clock,
            replace_corrupt=True,
        )
