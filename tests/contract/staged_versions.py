"""Versions that no TensorFlow made, and what must hold of each that a store shows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import NotFound
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.serving.codec import messages
from tfs_deploy.store.protocol import Store

Connect = Callable[[], Store]
Spoil = Callable[[str, int, str, bytes], None]


def stage(directory: Path, weights: bytes = b"weights") -> tuple[Path, Manifest]:
    """Write a SavedModel that no TensorFlow made, whose bytes differ with `weights`; return it with its manifest."""
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    graph = saved_model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    signature = graph.signature_def["serving_default"]
    signature.inputs["x"].name, signature.inputs["x"].dtype = "x:0", 1
    signature.outputs["y"].name, signature.outputs["y"].dtype = "y:0", 1
    files = {
        "saved_model.pb": saved_model.SerializeToString(deterministic=True),
        "variables/variables.index": b"index",
        "variables/variables.data-00000-of-00001": weights,
        "assets/empty.txt": b"",
        "assets.extra/note.txt": b"a note",
    }
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory, manifests.build(directory, clock=SystemClock())


def check_whole(store: Store, model: str) -> tuple[int, ...]:
    """Return the versions of `model`, each of which must be complete and right."""
    there = store.versions(model)
    for version in there:
        try:
            store.verify(model, version)
        except NotFound:
            assert version not in store.versions(model), f"version {version} is listed, but cannot be read"
    return there


@contextlib.contextmanager
def watching(connect: Connect, model: str, seconds: float = 0.002) -> Iterator[None]:
    """Look at the store all the time, as a model server does: every version that is visible must be whole."""
    finished = threading.Event()

    def watch() -> None:
        store = connect()
        while not finished.wait(seconds):
            check_whole(store, model)

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        try:
            yield
        finally:
            finished.set()
        watcher.result()
