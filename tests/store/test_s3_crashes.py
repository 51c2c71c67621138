"""Kill and refuse every write of publish, withdraw, delete and document writes to S3; run again; nothing is left (I3).

A proxy before moto numbers the requests that change something. A child process works through it and is killed before
or after one of them, for each of them in turn; and separately one of them is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.staged_versions import check_whole, stage
from s3_proxy import Fault, Proxy, Request, proxy_to
from s3_server import S3Server, moto_server, options_for
from store.finished import STABLE, check_ended, put_document
from store.s3_children import OPERATIONS, Children, operate
from sync.replica import Replica
from tfs_deploy.errors import StoreError, TFSDeployError
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, Manifest
from tfs_deploy.store.object_store.store import S3Store
from tfs_deploy.store.object_store.transfer import PART_BYTES

pytestmark = pytest.mark.faults

Staged = tuple[Path, Manifest]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[Proxy]:
    with proxy_to(server.url) as running:
        yield running


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """A model with a file of two parts."""
    return stage(tmp_path_factory.mktemp("staged"), bytes(PART_BYTES + 1000))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(tmp_path_factory.mktemp("other"), b"other weights")


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    running = Children()
    yield running
    running.close()


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(tmp_path_factory.mktemp("third"), b"third weights")


@pytest.fixture
def store_for(server: S3Server, other: Staged, third: Staged) -> Callable[[str], S3Store]:
    """Return a new store in which the operation makes sense, as the test itself sees it."""

    def make(name: str) -> S3Store:
        # A lease of no length: who comes after a dead publisher need not wait for it here.
        store = S3Store(f"s3://{server.new_bucket()}/team", options=server.options(), lease_seconds=0)
        if name in {"withdraw", "delete"}:
            store.publish(*other, "m")
            store.publish(*third, "m")
        if name == "write":
            put_document(store, b"old")
        return store

    return make


def error_of(work: Callable[[], object]) -> TFSDeployError | None:
    try:
        work()
    except TFSDeployError as error:
        return error
    return None


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def check_nothing_half_visible(store: S3Store, server: S3Server) -> None:
    check_whole(store, "m")
    bucket = store.uri.split("/")[2]
    marked = {name.split("/")[1] for name in server.names("team", bucket=bucket) if name.endswith(MANIFEST_PATH)}
    assert marked == {str(version) for version in store.versions("m")}


def check_finished(store: S3Store, server: S3Server, name: str, staged: Staged, replica: Replica) -> None:
    """Check that a plain re-run came to the operation's end and left nothing behind."""
    check_nothing_half_visible(store, server)
    there = check_ended(store, name, staged)
    bucket = store.uri.split("/")[2]
    names = server.names("team", bucket=bucket)
    withdrawn = {"1"} if name == "withdraw" else set()
    assert {one.split("/")[1] for one in names if one.startswith("m/")} == {str(number) for number in there} | withdrawn
    for number in there:
        files = {entry.path for entry in store.manifest("m", number).files} | {MANIFEST_PATH}
        assert {one for one in names if one.startswith(f"m/{number}/")} == {f"m/{number}/{path}" for path in files}
    assert not [one for one in names if "attempts/" in one]
    uploads = server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert not uploads
    tip = store.documents.read("tips/m")
    assert tip is None or b'"announced": []' in tip.body
    replica.expect(*there)


@pytest.fixture
def replica_of(tmp_path: Path) -> Callable[[S3Store, str], Replica]:
    """Return a replica of a store on which an operation is about to be broken, with a disk of its own."""
    count = itertools.count()

    def make(store: S3Store, name: str) -> Replica:
        return Replica(store, tmp_path / f"replica-{next(count)}", stable=STABLE[name])

    return make


def count_writes(proxy: Proxy, store: S3Store, transfer: str, name: str, staged: Staged) -> list[Request]:
    proxy.start_over()
    operate(store.uri, options_for(proxy.url, transfer=transfer), name, staged)
    return [request for request in proxy.requests if request.write]


# After one write is before the next, but for those that are on the way together.
@pytest.mark.parametrize(
    ("name", "transfer", "after"),
    [
        ("publish", "obstore", True),
        ("publish", "boto3", False),
        *((name, "boto3", True) for name in OPERATIONS[1:]),
    ],
)
def test_a_kill_at_any_write_leaves_nothing_half_visible_and_a_second_run_finishes(
    store_for: Callable[[str], S3Store],
    server: S3Server,
    proxy: Proxy,
    staged: Staged,
    other: Staged,
    tell: Callable[[str], None],
    children: Children,
    replica_of: Callable[[S3Store, str], Replica],
    name: str,
    transfer: str,
    after: bool,
) -> None:
    used = other if name in {"withdraw", "delete"} else staged
    writes = count_writes(proxy, store_for(name), transfer, name, used)
    assert len(writes) >= {"publish": 15, "withdraw": 5, "delete": 5, "write": 1}[name]
    killed = looks = 0
    for at in range(1, len(writes) + 1):
        store = store_for(name)

        def fault(request: Request, at: int = at) -> Fault | None:
            if not request.write or request.write < at:
                return None
            if after and request.write == at:
                return Fault(after=lambda: kill(children.child))
            return Fault(before=lambda: kill(children.child), reset=True)

        proxy.start_over(fault)
        replica = replica_of(store, name)
        point = f"{name} by {transfer}, write {at} {'after' if after else 'before'}: {writes[at - 1].path[:80]}"
        try:
            with replica.watching():
                code = children.run(store.uri, options_for(proxy.url, transfer=transfer), name, used)
                proxy.start_over()
                killed += code == -signal.SIGKILL  # pieces on the way together may come in fewer requests
                check_nothing_half_visible(store, server)
                operate(store.uri, server.options(transfer=transfer), name, used)
            check_finished(store, server, name, used, replica)
        except AssertionError as error:
            raise AssertionError(point) from error
        looks += replica.server.looks
    tell(
        f"{name} by {transfer}: killed {'after' if after else 'before'} {killed} writes to S3, "
        f"{looks} looks of an agent and its server, 0 violations"
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_error_at_any_write_is_reported_and_a_second_run_finishes(
    store_for: Callable[[str], S3Store],
    server: S3Server,
    proxy: Proxy,
    other: Staged,
    tell: Callable[[str], None],
    replica_of: Callable[[S3Store, str], Replica],
    name: str,
) -> None:
    used = other
    writes = count_writes(proxy, store_for(name), "obstore", name, used)
    reported = looks = 0
    for at in range(1, len(writes) + 1):
        store = store_for(name)
        replica = replica_of(store, name)
        refused = Fault(status=403, code="AccessDenied")
        proxy.start_over(lambda request, at=at, refused=refused: refused if request.write == at else None)
        point = f"{name}, write {at}: {writes[at - 1].path[:80]}"
        try:
            with replica.watching():
                options = options_for(proxy.url, transfer="obstore")
                error = error_of(lambda store=store, options=options: operate(store.uri, options, name, used))
                if error is not None:
                    assert isinstance(error, StoreError), error
                    assert "access is denied" in error.cause
                    assert store.uri in error.cause
                    reported += 1
                proxy.start_over()
                check_nothing_half_visible(store, server)
                operate(store.uri, server.options(), name, used)
            check_finished(store, server, name, used, replica)
        except AssertionError as error:
            raise AssertionError(point) from error
        looks += replica.server.looks
    assert reported >= len(writes) - 3  # only tidying up may fail in silence
    tell(f"{name}: refused at {len(writes)} writes to S3, {looks} looks of an agent and its server, 0 violations")
