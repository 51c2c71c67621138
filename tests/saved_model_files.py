"""Write a directory that is a SavedModel as far as files go: signatures to read, bytes to hash, nothing to run."""

from __future__ import annotations

from pathlib import Path

from fakes import HALF_PLUS_TWO, signature_def
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GOLDEN_PATH, GoldenRequest, write_golden
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.signature import Signature

BEHAVIOUR = "assets/behaviour.txt"


def write_saved_model(
    directory: Path,
    behaviour: str = "good",
    *,
    signatures: dict[str, Signature] | None = None,
    golden: tuple[GoldenRequest, ...] = (),
    with_manifest: bool = True,
) -> Path:
    """Write a SavedModel that a fake server serves as `behaviour` says (see tests/deployment/conftest.py)."""
    saved = messages.SavedModel(saved_model_schema_version=1)
    graph = saved.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    for name, signature in (signatures or {"serving_default": HALF_PLUS_TWO}).items():
        graph.signature_def[name].CopyFrom(signature_def(signature))
    (directory / "variables").mkdir(parents=True)
    (directory / "assets").mkdir()
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())
    (directory / "variables" / "variables.index").write_bytes(b"index")
    (directory / "variables" / "variables.data-00000-of-00001").write_bytes(behaviour.encode() * 100)
    (directory / BEHAVIOUR).write_text(behaviour)
    if golden:
        (directory / "assets.extra").mkdir()
        write_golden(directory / GOLDEN_PATH, "half_plus_two", golden)
    if with_manifest:
        manifests.write(directory, manifests.build(directory, clock=SystemClock()))
    return directory
