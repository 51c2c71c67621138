"""A network that loses, breaks and delays things."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.staged_versions import check_whole
from s3_proxy import Fault, Proxy, Request
from s3_server import options_for
from store.s3_faults.conftest import INDEX, Open, Staged
from tfs_deploy.errors import (
    CorruptModel,
    StoreError,
    Transient,
    Unreachable,
)
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

pytestmark = pytest.mark.faults


def every(number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.count % number == 0 else None


def once_per_object(fault: Fault, *, method: str = "GET", where: str = "/m/1/") -> Callable[[Request], Fault | None]:
    seen: set[str] = set()

    def rule(request: Request) -> Fault | None:
        if request.method != method or where not in request.path or request.path in seen:
            return None
        seen.add(request.path)
        return fault

    return rule


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503, code="SlowDown"), Fault(status=500, code="InternalError"), Fault(reset=True)],
    ids=["503", "500", "reset"],
)
def test_a_publish_and_a_download_get_through_a_storm(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path, fault: Fault
) -> None:
    proxy.start_over(every(7, fault))
    store = through_proxy(max_retries=4)
    assert store.publish(*staged, "m").created
    store.download("m", 1, target)
    manifests.verify(target, staged[1])
    proxy.start_over()
    assert check_whole(direct, "m") == (1,)


def test_an_answer_that_is_lost_does_not_make_a_second_version(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged
) -> None:
    seen: set[str] = set()

    def lose_the_first_answer(request: Request) -> Fault | None:
        if request.method != "PUT" or request.path in seen:
            return None
        seen.add(request.path)
        return Fault(after=lambda: None)

    proxy.start_over(lose_the_first_answer)
    published = through_proxy(max_retries=4).publish(*staged, "m")
    assert (published.version.version, published.created) == (1, True)
    assert check_whole(direct, "m") == (1,)


@pytest.mark.parametrize("fault", [Fault(truncate=True), Fault(corrupt=True)], ids=["truncated", "corrupted"])
def test_a_body_that_arrives_damaged_once_is_fetched_again(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path, fault: Fault
) -> None:
    direct.publish(*staged, "m")
    damage = once_per_object(fault, where="/m/1/variables/")
    proxy.start_over(damage)
    through_proxy().download("m", 1, target)
    manifests.verify(target, staged[1])


def test_a_body_that_always_arrives_damaged_is_named(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(lambda request: Fault(corrupt=True) if INDEX in request.path else None)
    with pytest.raises(CorruptModel, match=INDEX):
        through_proxy().download("m", 1, target)
    assert not (target / MANIFEST_PATH).exists()


def test_a_body_that_always_breaks_off_is_transient(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(lambda request: Fault(truncate=True) if INDEX in request.path else None)
    with pytest.raises(Transient):
        through_proxy(max_retries=1).download("m", 1, target)
    assert not (target / MANIFEST_PATH).exists()


def test_a_body_that_stalls_is_fetched_again(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    proxy.start_over(once_per_object(Fault(slow_seconds=40.0), where=INDEX))
    through_proxy(read_timeout_seconds=2.0, max_retries=4).download("m", 1, target)
    manifests.verify(target, staged[1])


@pytest.mark.parametrize("fault", [Fault(status=503, code="SlowDown"), Fault(reset=True)], ids=["server", "connection"])
def test_a_store_that_stays_away_is_transient_and_the_wait_is_bounded(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, fault: Fault
) -> None:
    proxy.start_over(lambda request: fault)
    with pytest.raises(Unreachable, match="could not read"):
        through_proxy(max_retries=1).publish(*staged, "m")
    assert direct.versions("m") == ()
    assert len(proxy.requests) <= 8


def test_an_endpoint_without_a_server_is_unreachable(uri: str, staged: Staged) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="no whole answer"):
        open_store(uri, s3=options_for(url, max_retries=0)).publish(*staged, "m")


def test_a_publish_goes_on_where_another_ended_and_sends_the_rest_only(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged
) -> None:
    proxy.start_over(
        lambda request: Fault(status=403, code="AccessDenied") if "/m/1/saved_model.pb" in request.path else None
    )
    with pytest.raises(StoreError, match="access is denied"):
        through_proxy().publish(*staged, "m")
    proxy.start_over()
    seen: list[int] = []
    published = through_proxy().publish(*staged, "m", progress=seen.append)
    assert (published.version.version, published.created) == (1, True)
    assert published.uploaded_bytes == len((staged[0] / "saved_model.pb").read_bytes())
    assert seen[-1] == staged[1].total_bytes
    sent = [request.path for request in proxy.requests if request.write and "/m/1/" in request.path]
    assert [path.partition("/m/1/")[2] for path in sent] == ["saved_model.pb", MANIFEST_PATH]
    assert check_whole(direct, "m") == (1,)


def test_files_are_sent_in_order_and_the_manifest_last(through_proxy: Open, proxy: Proxy, staged: Staged) -> None:
    through_proxy().publish(*staged, "m")
    sent = [request.path.partition("/m/1/")[2].partition("?")[0] for request in proxy.requests if request.write]
    order = list(dict.fromkeys(path.partition("/")[0] if "manifest" not in path else path for path in sent if path))
    assert order == ["assets.extra", "assets", "variables", "saved_model.pb", MANIFEST_PATH]


def test_the_same_bytes_again_send_nothing(through_proxy: Open, proxy: Proxy, staged: Staged) -> None:
    through_proxy().publish(*staged, "m")
    proxy.start_over()
    assert through_proxy().publish(*staged, "m").uploaded_bytes == 0
    assert not [request for request in proxy.requests if request.write and "/m/" in request.path.partition(".tfs")[0]]


def test_a_piece_that_breaks_off_again_and_again_goes_on_as_long_as_something_comes(
    through_proxy: Open, direct: Store, proxy: Proxy, staged: Staged, target: Path
) -> None:
    direct.publish(*staged, "m")
    faults = [Fault(close_early=True)] * 9

    def rule(request: Request) -> Fault | None:
        if request.method == "GET" and "variables.data" in request.path:
            with contextlib.suppress(IndexError):  # the proxy asks in several threads
                return faults.pop()
        return None

    proxy.start_over(rule)
    through_proxy().download("m", 1, target)
    manifests.verify(target, staged[1])
    assert faults == []
