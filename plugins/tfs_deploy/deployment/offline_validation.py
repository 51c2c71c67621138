"""Validate a SavedModel directory on a throw-away model server, before anything is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tfs_deploy.clock import Clock
from tfs_deploy.deployment.steps.publish import manifest_of, read_staged
from tfs_deploy.errors import LoadFailed, LoadInterrupted
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.runner import ModelServerRunner
from tfs_deploy.serving.waiting import WaitLimits, wait_until_available
from tfs_deploy.store.protocol import Store
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gate import LiveVersion
from tfs_deploy.validation.report import Check, ValidationReport, Verdict, overall
from tfs_deploy.validation.runner import prepare_gates, validate_replicas

# The number that the directory has on the throw-away server; it has none of its own yet.
UNPUBLISHED = 1
# Stands for a gate in the report on a server that cannot load the version, or ends while it does.
LOAD_GATE = "load"


def validate_directory(
    directory: Path,
    model: str,
    gates: Gates,
    *,
    runner: ModelServerRunner,
    clock: Clock,
    live: LiveVersion | None = None,
    wait: WaitLimits = WaitLimits(),
    version: int = UNPUBLISHED,
) -> ValidationReport:
    """Serve `directory` for a while, run every gate and return the report, whatever its verdict.

    `live` is the version to compare with, on the server that serves it. Raises InvalidInput or CorruptModel for a
    directory or requests that do not fit, LoadFailed when the server cannot load it.
    """
    manifest = manifest_of(directory, clock=clock)
    if (directory / MANIFEST_PATH).is_file():
        manifests.verify(directory, manifest)
    prepared = prepare_gates(manifest, gates, lambda path: read_staged(directory, path))
    with runner.serve(directory, model, version) as target:
        client = connect(target)
        try:
            wait_until_available({target: client}, model, version, limits=wait, clock=clock)
            compared: Mapping[str, LiveVersion] = {target: live} if live else {}
            return validate_replicas({target: client}, model, version, gates=prepared, live=compared, clock=clock)
        finally:
            client.close()


def validate_in_each(
    directory: Path,
    model: str,
    gates: Gates,
    *,
    runners: Mapping[str, ModelServerRunner],
    clock: Clock,
    wait: WaitLimits = WaitLimits(),
    version: int = UNPUBLISHED,
) -> ValidationReport:
    """Do what `validate_directory` does on a server of each of `runners`, by name, and return one report about all.

    A server that cannot load the version, or ends while it does, is a failed check that quotes the server; one that
    was killed, or lacked memory, is an inconclusive one. Raises
    InvalidInput or CorruptModel before any server starts, and errors of a runner that do not concern the model.
    """
    manifest = manifest_of(directory, clock=clock)
    started, checks = clock.monotonic(), list[Check]()
    for name, runner in runners.items():
        try:
            report = validate_directory(directory, model, gates, runner=runner, clock=clock, wait=wait, version=version)
            checks += (replace(check, replica=name) for check in report.checks)
        except LoadFailed as error:
            checks.append(Check(LOAD_GATE, name, Verdict.FAIL, error.cause))
        except LoadInterrupted as error:
            checks.append(Check(LOAD_GATE, name, Verdict.INCONCLUSIVE, error.cause))
    return ValidationReport(
        model=model,
        version=version,
        fingerprint=manifest.fingerprint,
        replicas=tuple(runners),
        checks=tuple(checks),
        verdict=overall(checks),
        at=clock.now().isoformat(),
        seconds=round(clock.monotonic() - started, 3),
    )


@contextmanager
def files_of(store: Store, model: str, version: int) -> Iterator[Path]:
    """Yield a directory with the files of a published version: the store's own, or a download from a remote store."""
    store.manifest(model, version)
    if store.directory is not None:
        yield store.directory / model / str(version)
        return
    with TemporaryDirectory(prefix="tfs-deploy-") as folder:
        store.download(model, version, Path(folder))
        yield Path(folder)
