"""The committed wire schema is the one of the installed tensorflow-serving-api."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

import tfs_deploy.serving.codec

pytestmark = pytest.mark.tensorflow

GENERATOR = Path(__file__).parent / "generate_descriptors.py"
_BUILD = """
import runpy, sys
from pathlib import Path
Path(sys.argv[2]).write_bytes(runpy.run_path(sys.argv[1])["build"]().SerializeToString(deterministic=True))
"""


def declarations(files: descriptor_pb2.FileDescriptorSet) -> dict[str, bytes]:
    """Return every top-level message and enum by its full name."""
    return {
        f"{file.package}.{declared.name}": declared.SerializeToString(deterministic=True)
        for file in files.file
        for declared in (*file.message_type, *file.enum_type)
    }


def test_the_committed_descriptors_have_not_drifted(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed", exc_type=ImportError)
    built = tmp_path / "built.binpb"
    done = subprocess.run([sys.executable, "-c", _BUILD, str(GENERATOR), str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    committed = (Path(tfs_deploy.serving.codec.__file__).parent / "descriptors.binpb").read_bytes()
    wanted, found = (
        declarations(descriptor_pb2.FileDescriptorSet.FromString(data)) for data in (built.read_bytes(), committed)
    )
    drifted = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not drifted, (
        f"{', '.join(drifted)} changed: run `python tests/serving/{GENERATOR.name}` and commit the result"
    )
