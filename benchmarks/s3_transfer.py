"""Upload and download to S3, against s5cmd, boto3's transfer manager and a plain boto3 loop, on one local server.

    python benchmarks/s3_transfer.py [--directory DIR] [--rounds N]

The server is ``rclone serve s3``, which is fast but ignores conditional writes: so what is measured there is sending
and fetching the files of a version, with every digest computed and compared, and not the few small requests around it.
Those are in a whole publish and download on moto, printed last. The figures are medians; each round runs all in turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from s3_server import ACCESS_KEY, BUCKET, SECRET, S3Server, moto_server, rclone_server
from tfs_deploy.clock import SystemClock
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.files import list_files
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.serving.codec import messages
from tfs_deploy.store.download.target import DownloadTarget
from tfs_deploy.store.object_store.address import S3Address
from tfs_deploy.store.object_store.connection import connect
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.obstore_transfer import open_transfer
from tfs_deploy.store.object_store.store import S3Store
from tfs_deploy.store.object_store.version_files import Fetcher, Sender
from tfs_deploy.store.staged import StagedFiles

SHAPES = {"2,000 x 10 kB": (2_000, 10_000), "4 x 256 MB": (4, 256_000_000)}
WAYS = ("tfs-deploy", "tfs-deploy, boto3 only", "s5cmd", "boto3 transfer manager", "boto3 loop")


def make_model(directory: Path, files: int, size: int) -> Manifest:
    """Write a SavedModel with `files` files of `size` random bytes."""
    saved_model = messages.SavedModel(saved_model_schema_version=1)
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    for number in range(files):
        (directory / "variables" / f"part-{number:05d}").write_bytes(os.urandom(size))
    return manifests.build(directory, clock=SystemClock())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Ours:
    """Sending and fetching, without the requests that claim a number and commit."""

    def __init__(self, server: S3Server, transfer: str) -> None:
        connection = connect(S3Address(BUCKET, transfer), server.options(transfer=transfer))
        self.objects = Objects(connection, SystemClock())
        self.transfer = open_transfer(connection)

    def upload(self, source: Path, manifest: Manifest) -> None:
        staged = StagedFiles(source, manifest, None)
        Sender(staged, self.objects, self.transfer, model="m", beat=lambda: None).send(1, resumed=False)

    def download(self, target: Path, manifest: Manifest) -> None:
        fetcher = Fetcher(self.objects, self.transfer)
        where = "the benchmark's version"
        DownloadTarget(
            manifest, fetcher.files("m", 1), where=where, threads=fetcher.threads, pieces=fetcher.pieces
        ).fill(target)


def s5cmd(server: S3Server, *arguments: str) -> None:
    program = shutil.which("s5cmd", path=str(Path(sys.executable).parent)) or "s5cmd"
    environment = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    command = [program, "--endpoint-url", server.url, "--log", "error", "cp", *arguments]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def manager(client: Any) -> Any:
    from boto3.s3.transfer import S3Transfer, TransferConfig, create_transfer_manager

    return S3Transfer(manager=create_transfer_manager(client, TransferConfig()))._manager


def upload_managed(server: S3Server, source: Path) -> None:
    with manager(server.client()) as running:
        for future in [running.upload(str(source / path), BUCKET, f"managed/{path}") for path in list_files(source)]:
            future.result()


def download_managed(server: S3Server, target: Path, paths: list[str]) -> None:
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
    with manager(server.client()) as running:
        for future in [running.download(BUCKET, f"managed/{path}", str(target / path)) for path in paths]:
            future.result()


def upload_plainly(server: S3Server, source: Path) -> None:
    for path in list_files(source):
        with (source / path).open("rb") as stream:
            server.client().put_object(Bucket=BUCKET, Key=f"plain/{path}", Body=stream)


def download_plainly(server: S3Server, target: Path, paths: list[str]) -> None:
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        with (target / path).open("wb") as stream:
            for block in server.client().get_object(Bucket=BUCKET, Key=f"plain/{path}")["Body"].iter_chunks(1 << 20):
                stream.write(block)


def measure_shape(work: Path, name: str, rounds: int) -> None:
    source = work / "source"
    manifest = make_model(source, *SHAPES[name])
    paths = list_files(source)
    up: dict[str, list[float]] = {way: [] for way in WAYS}
    down: dict[str, list[float]] = {way: [] for way in WAYS}
    unflushed: dict[str, list[float]] = {way: [] for way in WAYS}
    with rclone_server(work / "served") as server:
        ours, plain_ours = Ours(server, "obstore"), Ours(server, "boto3")
        uploads: dict[str, Callable[[], object]] = {
            "tfs-deploy": lambda: ours.upload(source, manifest),
            "tfs-deploy, boto3 only": lambda: plain_ours.upload(source, manifest),
            "s5cmd": lambda: s5cmd(server, f"{source}/", f"s3://{BUCKET}/s5cmd/"),
            "boto3 transfer manager": lambda: upload_managed(server, source),
            "boto3 loop": lambda: upload_plainly(server, source),
        }
        downloads: dict[str, Callable[[Path], object]] = {
            "tfs-deploy": lambda target: ours.download(target, manifest),
            "tfs-deploy, boto3 only": lambda target: plain_ours.download(target, manifest),
            "s5cmd": lambda target: s5cmd(server, f"s3://{BUCKET}/s5cmd/*", f"{target}/"),
            "boto3 transfer manager": lambda target: download_managed(server, target, paths),
            "boto3 loop": lambda target: download_plainly(server, target, paths),
        }
        for _ in range(rounds):
            for way in WAYS:
                os.sync()
                up[way].append(seconds(uploads[way]))
            for way in WAYS:
                target = work / "target"
                target.mkdir()
                os.sync()
                # With the disk, since ours returns when all is there; the peers' time without it is told as well.
                start = time.perf_counter()
                unflushed[way].append(seconds(lambda way=way, target=target: downloads[way](target)))
                os.sync()
                down[way].append(time.perf_counter() - start)
                shutil.rmtree(target)
    shutil.rmtree(work / "served")
    shutil.rmtree(source)
    for title, taken in (("upload", up), ("download", down), ("download, nothing flushed by the peers,", unflushed)):
        medians = {way: statistics.median(values) for way, values in taken.items()}
        print(f"{title} {name}: " + ", ".join(f"{way} {value:.2f} s" for way, value in medians.items()))
        for way in WAYS[2:]:
            print(f"  {way} / tfs-deploy{'':<{24 - len(way)}} {medians[way] / medians['tfs-deploy']:.2f}")


def measure_whole(work: Path) -> None:
    source = work / "source"
    manifest = make_model(source, 200, 10_000)
    with moto_server() as server:
        store = S3Store(f"s3://{BUCKET}/models", options=server.options())
        published = seconds(lambda: store.publish(source, manifest, "m"))
        again = seconds(lambda: store.publish(source, manifest, "m"))
        (work / "target").mkdir()
        fetched = seconds(lambda: store.download("m", 1, work / "target"))
    print(f"whole publish of 200 x 10 kB on moto {published:.2f} s, again {again:.2f} s, download {fetched:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; a fresh directory below it is used and removed")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tfs-deploy-s3-", dir=arguments.directory))
    try:
        for name in SHAPES:
            measure_shape(work, name, arguments.rounds)
        measure_whole(work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
