"""Publish into a store in a directory, against `cp -r` and `sync` of the same files on the same disk.

    python benchmarks/publish.py [--directory DIR] [--rounds N]

Each round copies and publishes in turn, so that both see the same disk; the figures are medians over the rounds.
Printed per shape of model: seconds and ratio of

- a publish against `cp -r` + `sync -f` alone, and against that plus hashing the same files once;
- a second publish of the same bytes against reading and hashing them once;

and the cost of a publish of a small model with 10, 1,000 and 10,000 versions published before it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.files import hash_files, list_files
from tfs_deploy.serving.codec import messages
from tfs_deploy.store.local.store import LocalStore

SHAPES = {"2,000 x 10 kB": (2_000, 10_000), "4 x 64 MB": (4, 64_000_000)}
OLD_VERSIONS = (10, 1_000, 10_000)


def make_model(directory: Path, files: int, size: int) -> None:
    """Write a SavedModel with `files` files of `size` random bytes."""
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    for number in range(files):
        (directory / "variables" / f"part-{number:05d}").write_bytes(os.urandom(size))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)


def measure_shape(work: Path, name: str, rounds: int) -> None:
    files, size = SHAPES[name]
    source = work / "source"
    make_model(source, files, size)
    manifest = manifests.build(source, clock=SystemClock())
    paths = list_files(source)
    taken: dict[str, list[float]] = {"copy": [], "hash": [], "publish": [], "again": []}
    for number in range(rounds):
        store = LocalStore(work / f"store{number}")
        os.sync()
        taken["copy"].append(seconds(lambda number=number: copy(source, work / f"copy{number}")))
        os.sync()
        taken["publish"].append(seconds(lambda store=store: store.publish(source, manifest, "m")))
        taken["again"].append(seconds(lambda store=store: store.publish(source, manifest, "m")))
        taken["hash"].append(seconds(lambda: hash_files(source, paths)))
        # Both go, so that both find the same free blocks in the next round.
        shutil.rmtree(work / f"copy{number}")
        shutil.rmtree(work / f"store{number}")
    copied, hashed, published, again = (statistics.median(values) for values in taken.values())
    print(f"{name}: cp -r + sync {copied:.3f} s, hash {hashed:.3f} s, publish {published:.3f} s, again {again:.3f} s")
    print(f"  publish / (cp -r + sync)         {published / copied:.2f}")
    print(f"  publish / (cp -r + sync + hash)  {published / (copied + hashed):.2f}")
    print(f"  second publish / hash            {again / hashed:.2f}")
    shutil.rmtree(source)


def measure_history(work: Path, rounds: int) -> None:
    source = work / "small"
    first = None
    for old in OLD_VERSIONS:
        root = work / f"store{old}"
        claims = root / ".tfs_deploy" / "claims" / "m"
        claims.mkdir(parents=True)
        for number in range(1, old + 1):
            (root / "m" / str(number) / "assets.extra").mkdir(parents=True)
            (root / "m" / str(number) / manifests.MANIFEST_PATH).write_bytes(b"{}")
            (claims / str(number)).write_bytes(b"")
        taken = []
        for _ in range(rounds):
            make_model(source, 1, 10_000)
            manifest = manifests.build(source, clock=SystemClock())
            taken.append(seconds(lambda root=root, manifest=manifest: LocalStore(root).publish(source, manifest, "m")))
            shutil.rmtree(source)
        median = statistics.median(taken)
        first = first or median
        print(f"publish after {old:>6,} versions: {median * 1000:.1f} ms, {median / first:.2f} of that after 10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; a fresh directory below it is used and removed")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tfs-deploy-publish-", dir=arguments.directory))
    try:
        for name in SHAPES:
            measure_shape(work, name, arguments.rounds)
        measure_history(work, arguments.rounds)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
