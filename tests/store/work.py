"""What the processes of test_processes.py do; a module of its own, because a spawned process imports it by name."""

from __future__ import annotations

from pathlib import Path

from contract.state_documents_suite import increment
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.protocol import Published


def publish(root: Path, directory: Path, manifest: Manifest) -> Published:
    return LocalStore(root).publish(directory, manifest, "m")


def increment_often(root: Path, times: int) -> None:
    for _ in range(times):
        increment(LocalStore(root).documents, "counter")
