"""Read the items out of a request's body: JSON, or a form with uploads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.httputil import (
    HTTPFile,
    HTTPHeaders,
    HTTPInputError,
    ParseMultipartConfig,
    parse_multipart_form_data,
)

from tfs_deploy.gateway import problem
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.problem import Problem, bad_request
from tfs_deploy.gateway.processors.protocol import BadItem, Blob, a_json, decode_b64
from tfs_deploy.gateway.web import chunked_json
from tfs_deploy.gateway.web.message import JSON, Request

FORM = "multipart/form-data"
TIMEOUT_HEADER = "X-Request-Timeout"
_NAMES = ("item", "items")


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one request; `single`: it was one that is answered by itself, not by a list."""

    values: list[Any]
    single: bool


def read_items(request: Request, *, most: int) -> Items:
    """Return the items in the body; raise Problem (400, 413, 415)."""
    kind, _, parameters = request.headers.get("Content-Type", "").partition(";")
    kind = kind.strip().lower()
    check_kind(request.headers)
    items = _from_json(request.body) if kind == JSON else _from_form(parameters, request.body, most)
    if len(items.values) > most:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "Too large",
            f"The request has {len(items.values)} items, and at most {most} are taken at once.",
        )
    if not items.values:
        raise bad_request("The list 'items' is empty; send at least one item.")
    return items


def check_kind(headers: HTTPHeaders) -> None:
    """Raise Problem (415) for a body that is not read here, before it is received."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, FORM):
        raise _unsupported(f"The body must be {JSON} or {FORM}, and its Content-Type says which.")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise _unsupported("The body must not be compressed; send it without Content-Encoding.")


def read_timeout(headers: HTTPHeaders, *, most: float) -> float:
    """Return how many seconds the request may take: what its header asks for, at most `most`; raise Problem (400)."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return most
    try:
        # float() takes "1_0", "inf" and the digits of every script as well.
        seconds = float(given) if given.isascii() and "_" not in given else math.nan
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise bad_request(f"The header {TIMEOUT_HEADER} is not a positive number of seconds.")
    return min(seconds, most)


def _from_json(body: bytes) -> Items:
    try:
        document = chunked_json.decode(body)
    except UnicodeDecodeError:
        raise bad_request("The body is not UTF-8.") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.") from None
    except msgspec.DecodeError as error:
        # Where in the body is known only if it was read as a whole.
        told = str(error).partition(" (byte")[0] if len(body) > chunked_json.LARGE_BYTES else str(error)
        raise bad_request(f"The body is not JSON: {told.rstrip('.')}.") from None
    if type(document) is not dict:
        raise bad_request(f'The body is {a_json(document)}; send an object like {{"items": [...]}}.')
    strangers = sorted(document.keys() - set(_NAMES))
    if strangers:
        raise bad_request(f"The body has the unknown member {strangers[0][:64]!r}; it takes 'items' or 'item'.")
    if len(document) != 1:
        raise bad_request(f"The body has {'both' if document else 'neither'} 'items' and 'item'; send one of them.")
    if "item" in document:
        return Items([document["item"]], single=True)
    if type(document["items"]) is not list:
        raise bad_request(f"The member 'items' is {a_json(document['items'])}; send a list.")
    return Items(document["items"], single=False)


def _from_form(parameters: str, body: bytes, most: int) -> Items:
    texts: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    try:
        # One part more than allowed, so that it is told in our words.
        config = ParseMultipartConfig(max_parts=most + 2)
        parse_multipart_form_data(_boundary(parameters), body, texts, files, config=config)
    except HTTPInputError as error:
        told = str(getattr(error, "log_message", None) or error).rstrip(".")
        raise bad_request(f"The form cannot be read: {told[:200] or 'it is malformed'}.") from None
    except UnicodeDecodeError:
        raise bad_request("The form has a part whose header is not UTF-8.") from None
    names = texts.keys() | files.keys()
    strangers = sorted(names - set(_NAMES))
    if strangers:
        raise bad_request(f"The form has the unknown field {strangers[0][:64]!r}; it takes 'items' or 'item'.")
    if len(names) != 1 or (texts and files):
        what = "no field 'items' or 'item'" if not names else "files and texts, or 'items' and 'item', mixed"
        raise bad_request(f"The form has {what}; send one kind of field.")
    name = next(iter(names))
    values: list[Any] = [_blob(file) for file in files.get(name, [])] + [_text(text) for text in texts.get(name, [])]
    if name == "item" and len(values) > 1:
        raise bad_request("The form has the field 'item' more than once; use 'items'.")
    return Items(values, single=name == "item")


def _boundary(parameters: str) -> bytes:
    for part in parameters.split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() == "boundary" and value:
            return value.encode("latin-1", "replace")
    raise bad_request("The Content-Type of the form has no boundary.")


def _blob(file: HTTPFile) -> Blob:
    return Blob(file.body, file.content_type, file.filename)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request("The form has a text that is not UTF-8; send it as a file if it is one.") from None


def _unsupported(detail: str) -> Problem:
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Unsupported media type", detail)


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
