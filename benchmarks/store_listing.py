"""The cost of a publish and of an agent's poll with 10, 1,000 and 10,000 versions published before, on disk and S3.

    python benchmarks/store_listing.py [--rounds N]

The agent's poll is `Store.change_token`. On S3 (moto) the old versions are claims, manifests and one file each. moto
itself reads every object of a bucket to list some, which a real server does not; so the number of requests is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from s3_server import S3Server, moto_server
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.serving.codec import messages
from tfs_deploy.store.local.store import LocalStore
from tfs_deploy.store.object_store.store import S3Store
from tfs_deploy.store.protocol import Store

OLD_VERSIONS = (10, 1_000, 10_000)


def make_model(directory: Path) -> Manifest:
    """Write a small SavedModel with random bytes."""
    shutil.rmtree(directory, ignore_errors=True)
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    (directory / "variables" / "part").write_bytes(os.urandom(10_000))
    return manifests.build(directory, clock=SystemClock())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def on_disk(root: Path, old: int) -> Store:
    claims = root / ".tfs_deploy" / "claims" / "m"
    claims.mkdir(parents=True)
    for number in range(1, old + 1):
        (root / "m" / str(number) / "assets.extra").mkdir(parents=True)
        (root / "m" / str(number) / MANIFEST_PATH).write_bytes(b"{}")
        (claims / str(number)).write_bytes(b"")
    return LocalStore(root)


def on_s3(server: S3Server, old: int) -> tuple[Store, list[str]]:
    """Return a store and the list that its requests go to."""
    from moto.s3.models import s3_backends

    bucket = server.new_bucket()
    backend = next(account["aws"] for account in s3_backends.values())
    for number in range(1, old + 1):
        backend.put_object(bucket, f"models/m/{number}/{MANIFEST_PATH}", b"{}")
        backend.put_object(bucket, f"models/m/{number}/saved_model.pb", b"x")
        backend.put_object(bucket, f"models/.tfs_deploy/claims/m/{number}", b"")
    store = S3Store(f"s3://{bucket}/models", options=server.options())
    requests: list[str] = []
    client = store._holdings._objects._client
    client.meta.events.register("before-send.s3.*", lambda request, **_: requests.append(request.url))
    return store, requests


def measure(title: str, store: Store, work: Path, rounds: int, requests: list[str]) -> dict[str, float]:
    # The first publish finds no hint and lists everything, once.
    first = seconds(lambda manifest=make_model(work / "model"): store.publish(work / "model", manifest, "m"))
    publishes, polls, counts = [], [], []
    for _ in range(rounds):
        manifest = make_model(work / "model")
        requests.clear()
        publishes.append(seconds(lambda manifest=manifest: store.publish(work / "model", manifest, "m")))
        counts.append(len(requests))
        polls.append(seconds(lambda: store.change_token("m")))
    figures = {"publish": statistics.median(publishes), "poll": statistics.median(polls)}
    sent = f", {statistics.median(counts):.0f} small requests a publish" if requests else ""
    print(
        f"{title}: publish {figures['publish'] * 1000:.1f} ms, poll {figures['poll'] * 1000:.2f} ms{sent}"
        f" (the very first publish without a hint {first * 1000:.0f} ms)"
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; a fresh directory below it is used and removed")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tfs-deploy-listing-", dir=arguments.directory))
    figures: dict[str, list[dict[str, float]]] = {"disk": [], "S3": []}
    try:
        for old in OLD_VERSIONS:
            store = on_disk(work / f"store{old}", old)
            figures["disk"].append(measure(f"disk after {old:>6,} versions", store, work, arguments.rounds, []))
        with moto_server() as server:
            for old in OLD_VERSIONS:
                remote, requests = on_s3(server, old)
                figures["S3"].append(measure(f"S3 after {old:>6,} versions", remote, work, arguments.rounds, requests))
    finally:
        shutil.rmtree(work)
    for where, rows in figures.items():
        for kind in ("publish", "poll"):
            print(f"{where}: {kind} after 10,000 versions / after 10: {rows[-1][kind] / rows[0][kind]:.2f}")


if __name__ == "__main__":
    main()
