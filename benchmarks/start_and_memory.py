"""From the start of the process to an open port, and the memory of every further version.

    python benchmarks/start_and_memory.py [--json] [--runs N] [--versions N] [--model SAVED_MODEL]

The port opens when the first model is AVAILABLE; with no model at once, while TensorFlow is still being imported.
Memory is the resident set of the process, on the digits model and on one with 40 MiB of variables. Under 90 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tfs_deploy.serving.client import connect
from tfs_deploy.serving.config import ModelEntry, to_proto
from under_load import digits
from under_load.server import Started, model_server, put, wait_for

_BIG = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
class Big(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_uniform([10240, 1024], (1, 2)))
    @tf.function(input_signature=[tf.TensorSpec([None, 10240], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x @ self.kernel}
big = Big()
tf.saved_model.save(big, sys.argv[1], signatures=big.__call__)
"""


def size_mib(directory: Path) -> float:
    """Return the size of all files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 2**20


def versions_mib(server: Started, name: str, base: Path, count: int) -> float:
    """Load `count` versions one after the other; return the memory of one beyond the first."""
    resident = []
    with connect(server.target) as client:
        for last in range(1, count + 1):
            client.reload(to_proto([ModelEntry(name, str(base), tuple(range(1, last + 1)))]), timeout=60.0)
            wait_for(server.target, name, last, "AVAILABLE")
            resident.append(server.resident_mib())
    return (resident[-1] - resident[0]) / (count - 1)


def measure(model: Path, work: Path, runs: int, versions: int) -> dict[str, float]:
    """Return the figures."""
    subprocess.run([sys.executable, "-c", _BIG, str(work / "big_model")], check=True, capture_output=True)
    sources = {"digits": model, "big": work / "big_model"}
    for name, source in sources.items():
        for version in range(1, versions + 1):
            put(source, work / "served" / name, version)
    empty = work / "models.config"
    empty.write_text("model_config_list { }\n")
    found: dict[str, list[float]] = {"no model": [], "digits": []}
    for _ in range(runs):
        with model_server(f"--model_config_file={empty}") as server:
            found["no model"].append(server.seconds)
        with model_server("--model_name=digits", f"--model_base_path={work}/served/digits") as server:
            found["digits"].append(server.seconds)
            one_version = server.resident_mib()
    figures = {
        "start_without_model_seconds": statistics.median(found["no model"]),
        "start_to_ready_seconds": statistics.median(found["digits"]),
        "resident_with_one_version_mib": one_version,
    }
    for name, source in sources.items():
        with model_server(f"--model_config_file={empty}", "--num_load_threads=2") as server:
            figures[f"{name}_files_mib"] = size_mib(source)
            figures[f"{name}_per_further_version_mib"] = versions_mib(server, name, work / "served" / name, versions)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="starts of which the median is taken (%(default)s)")
    parser.add_argument("--versions", type=int, default=5, help="versions loaded side by side (%(default)s)")
    parser.add_argument("--model", type=Path, help="a SavedModel of the digits model, instead of training one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfs-deploy-bench-") as work:
        found = measure(digits.exported(Path(work), args.model), Path(work), args.runs, args.versions)
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):40}{value:10.2f}")


if __name__ == "__main__":
    main()
