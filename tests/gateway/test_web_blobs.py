"""Items that stand for bytes: how many one request may name, and how many bytes it may have fetched."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.gateways import Got, Running, is_problem, run
from gateway.model_servers import Replica, version
from tfs_deploy.gateway.processors.protocol import Blob
from tfs_deploy.gateway.web.body import MAX_BLOBS

BLOBS = {"processor": {"name": "tensors", "options": {"blobs": True}}}
KIB = 1 << 10


def strings() -> Replica:
    return Replica({1: version((None,), dtype="DT_STRING")}, {"stable": 1})


class Web:
    """A fetcher to which every URL is as large as `size`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.asked = 0

    async def fetch(self, url: str, *, deadline: float, item: int | None = None) -> Blob:
        self.asked += 1
        return Blob(b"a" * self._size)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("given", [{"url": "http://a.example/"}, {"b64": ""}])
def test_an_item_with_many_members_is_refused_before_anything_is_fetched(given: dict[str, str]) -> None:
    web = Web(1)

    async def ask(g: Running) -> Got:
        return await g.predict({"item": {f"member-{number}": given for number in range(MAX_BLOBS + 1)}})

    got = run(ask, strings(), model=BLOBS, fetcher=web)
    assert is_problem(got, 422)
    assert str(MAX_BLOBS + 1) in got.json["detail"]
    assert got.json["item"] == 0
    assert web.asked == 0


def test_what_is_fetched_counts_as_held_and_is_given_back() -> None:
    items: list[Any] = [{"url": f"http://a.example/{number}"} for number in range(40)]
    web = Web(16 * KIB)

    async def ask(g: Running) -> list[Got]:
        refused = await g.predict({"items": items})
        assert g.gateway.app.budget.held_bytes == 0
        return [refused, await g.predict({"items": items[:18]}), await g.predict({"item": {"b64": b64(b"text")}})]

    # There is room for 32 bodies of 10 KiB: 18 times 16 KiB fit, and 40 times do not.
    refused, *answered = run(ask, strings(), model=BLOBS, fetcher=web, limits={"body_mib": 10 / 1024})
    assert is_problem(refused, 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert [got.status for got in answered] == [200, 200]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
