"""Write a directory that is a SavedModel as far as files go: signatures to read, bytes to hash, nothing to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from fakes import HALF_PLUS_TWO, signature_def
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.requests import GOLDEN_PATH, GoldenRequest, write_golden
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.signature import Signature, TensorSpec

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


# Gates files of which each holds another mistake about a model with the input `x` and the text output `y`.
BAD_GATES: dict[str, dict[str, object]] = {
    "integer labels": {"accuracy": {"file": "numbers.npz"}},
    "other input": {"accuracy": {"file": "other_input.npz"}},
    "other output": {"accuracy": {"file": "numbers.npz", "output": "z"}},
    "other signature": {"accuracy": {"file": "numbers.npz", "signature": "nothing"}},
    "no labelled set": {"accuracy": {"file": "junk"}},
    "missing labelled set": {"accuracy": {"file": "nowhere"}},
    "no golden requests": {"golden": {"file": "junk"}},
    "missing golden requests": {"golden": {"file": "nowhere"}},
    "misspelt gate": {"acuracy": {"file": "numbers.npz"}},
    "floor above 1": {"accuracy": {"file": "numbers.npz", "floor": 2}},
}
TEXT_OUTPUT = {"serving_default": replace(HALF_PLUS_TWO, outputs={"y": TensorSpec("DT_STRING", (None,))})}


def write_bad_gates(folder: Path, mistake: str) -> Path:
    """Write the gates file of `BAD_GATES` and the files that it names; return its path."""
    folder.mkdir(exist_ok=True)
    x = np.array([1.0, 2.0], dtype=np.float32)
    np.savez(folder / "numbers.npz", x=x, labels=np.array([1, 2]))
    np.savez(folder / "other_input.npz", z=x, labels=np.array(["a", "b"]))
    (folder / "junk").write_bytes(b"neither a TFRecord nor an .npz file")
    path = folder / "gates.yaml"
    path.write_text(json.dumps(BAD_GATES[mistake]))
    return path
