"""Step `publish`: the bytes of a staged SavedModel become a version in the store."""

from __future__ import annotations

import logging
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.deployment import records
from tfs_deploy.deployment.model_names import new_name
from tfs_deploy.deployment.records import Action
from tfs_deploy.deployment.replica_status import observe
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound
from tfs_deploy.names import check_model_name
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.inspection import check_saved_model
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.protocol import Progress, Published
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.runner import prepare_gates

logger = logging.getLogger(__name__)


def publish(
    session: GroupSession, staged: Path, model: str, *, gates: Gates | None = None, progress: Progress | None = None
) -> Published:
    """Publish the directory `staged`; the same bytes give the version that is there already, and move no byte.

    The number is above every one that a replica still remembers, because a server never tries a number again.
    `gates` are the ones that will run later: files of theirs that do not fit the model raise InvalidInput
    before a byte is written. Raises NotFound, InvalidInput, CorruptModel, StoreError, Unreachable.
    """
    check_model_name(model)
    manifest = manifest_of(staged, clock=session.clock)
    if gates is not None:
        prepare_gates(manifest, gates, lambda path: read_staged(staged, path))
    above = observe(session, model, ()).highest_known()
    name = new_name(session, model)
    if name is not None:
        logger.log(logging.WARNING if name.similar else logging.INFO, "%s", name)
    started = session.clock.monotonic()
    published = session.store.publish(staged, manifest, model, above=above, progress=progress)
    done = records.new_record(
        session,
        model,
        Action.PUBLISHED,
        published.version.version,
        fingerprint=manifest.fingerprint,
        reason=manifest.provenance.get("source", ""),
        seconds=round(session.clock.monotonic() - started, 3),
    )
    # Once: another publish of the same bytes may have recorded the version, or was killed before it could.
    records.append_once(session.store.documents, done)
    return published


def manifest_of(staged: Path, *, clock: Clock) -> Manifest:
    """Return the manifest that the export wrote, or a new one for a SavedModel from elsewhere.

    Raises NotFound without a SavedModel, and CorruptModel for one that a server would report as AVAILABLE and that
    cannot answer (contract 3.6).
    """
    check_saved_model(staged)
    if (staged / MANIFEST_PATH).is_file():
        return manifests.read(staged)
    return manifests.build(staged, provenance={"source": "an existing SavedModel"}, clock=clock)


def read_staged(staged: Path, path: str) -> bytes:
    """Return a small file of a staged SavedModel; raise NotFound if it cannot be read."""
    try:
        return (staged / path).read_bytes()
    except OSError as error:
        raise NotFound(f"{staged} holds no readable {path}: {error.strerror}.", "Export the model again.") from error
