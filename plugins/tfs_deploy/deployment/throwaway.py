"""Validate a SavedModel directory on a throw-away model server, before anything is published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.deployment.publish import manifest_of, read_staged
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.serving.waiting import WaitLimits, wait_until_available
from tfs_deploy.validation.candidate import LiveVersion
from tfs_deploy.validation.gates import Gates
from tfs_deploy.validation.run import gather, validate_replicas
from tfs_deploy.validation.verdict import ValidationReport

# The number that the directory has on the throw-away server; it has none of its own yet.
_VERSION = 1


def validate_directory(
    directory: Path,
    model: str,
    gates: Gates,
    *,
    runner: ModelServerRunner,
    clock: Clock,
    live: LiveVersion | None = None,
    wait: WaitLimits = WaitLimits(),
) -> ValidationReport:
    """Serve `directory` for a while, run every gate and return the report, whatever its verdict.

    `live` is the version to compare with, on the server that serves it. Raises InvalidInput or CorruptModel for a
    directory or requests that do not fit, LoadFailed when the server cannot load it.
    """
    manifest = manifest_of(directory, clock=clock)
    if (directory / MANIFEST_PATH).is_file():
        manifests.verify(directory, manifest)
    material = gather(manifest, gates, lambda path: read_staged(directory, path))
    with runner.serve(directory, model, _VERSION) as target:
        client = connect(target)
        try:
            wait_until_available({target: client}, model, _VERSION, limits=wait, clock=clock)
            compared: Mapping[str, LiveVersion] = {target: live} if live else {}
            return validate_replicas(
                {target: client},
                model,
                _VERSION,
                material=material,
                gates=gates,
                live=compared,
                clock=clock,
            )
        finally:
            client.close()
