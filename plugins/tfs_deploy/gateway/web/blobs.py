"""Make bytes of the items that stand for some: URLs are fetched, base64 is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tfs_deploy.gateway import problem
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.processors.blobs import a_json, decode_b64
from tfs_deploy.gateway.processors.protocol import BadItem, Blob

# One item stands for the inputs of a model, which has a few of them. Without a bound, one small body could name a
# hundred thousand URLs.
MOST_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where bytes go: the item, and its member if it is an object that holds them; what they are given as."""

    index: int
    member: str | None
    given: dict[str, Any]


async def with_blobs(
    items: Sequence[Any], fetcher: Fetcher, *, parallel: int, deadline: float, hold: Callable[[int], None]
) -> list[Any]:
    """Return `items` with a Blob where one said ``{"url": …}`` or ``{"b64": …}``; raise Problem.

    An item that is an object may have such values in it, one level down, `MOST_MEMBERS` at most. `parallel` URLs are
    fetched at once; `hold` takes room for the bytes of each, and raises Problem if there is none.
    """
    values = list(items)
    places = [place for index, item in enumerate(values) for place in _places(index, item)]
    for place in places:
        if "url" not in place.given:
            _put(values, place, _decoded(place))
    fetched = [place for place in places if "url" in place.given]
    urls = [_url(place) for place in fetched]
    turn = asyncio.Semaphore(parallel)

    async def one(place: _Place, url: str) -> Blob:
        async with turn:
            blob = await fetcher.fetch(url, deadline=deadline, item=place.index)
            hold(len(blob.data))
            return blob

    tasks = [asyncio.ensure_future(one(place, url)) for place, url in zip(fetched, urls, strict=True)]
    try:
        for place, blob in zip(fetched, await asyncio.gather(*tasks), strict=True):
            _put(values, place, blob)
    finally:
        for task in tasks:
            task.cancel()
    return values


def _places(index: int, item: Any) -> Iterator[_Place]:
    if type(item) is not dict:
        return
    if _stands_for_bytes(item):
        yield _Place(index, None, item)
        return
    found = [member for member, value in item.items() if type(value) is dict and _stands_for_bytes(value)]
    if len(found) > MOST_MEMBERS:
        told = f"Item {index} has {len(found)} members that are files or URLs; at most {MOST_MEMBERS} are taken."
        raise problem.unusable(told, item=index)
    yield from (_Place(index, member, item[member]) for member in found)


def _stands_for_bytes(value: dict[str, Any]) -> bool:
    return "url" in value or value.keys() == {"b64"}


def _put(values: list[Any], place: _Place, blob: Blob) -> None:
    values[place.index] = blob if place.member is None else {**values[place.index], place.member: blob}


def _decoded(place: _Place) -> Blob:
    try:
        return Blob(decode_b64(place.index, place.given["b64"]))
    except BadItem as error:
        raise problem.unusable(str(error), item=place.index) from error


def _url(place: _Place) -> str:
    if place.given.keys() != {"url"}:
        raise problem.unusable(f"Item {place.index} has more than 'url' where it names a URL.", item=place.index)
    url = place.given["url"]
    if not isinstance(url, str):
        raise problem.unusable(f"Item {place.index} has {a_json(url)} as its URL.", item=place.index)
    return url
