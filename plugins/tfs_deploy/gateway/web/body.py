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
from tfs_deploy.gateway.processors.protocol import BadItem, Blob, decode_b64, json_kind
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
        text = str(error).partition(" (byte")[0] if len(body) > chunked_json.LARGE_BYTES else str(error)
        raise bad_request(f"The body is not JSON: {text.rstrip('.')}.") from None
    if type(document) is not dict:
        raise bad_request(f'The body is {json_kind(document)}; send an object like {{"items": [...]}}.')
    unknown = sorted(document.keys() - set(_NAMES))
    if unknown:
        raise bad_request(f"The body has the unknown member {unknown[0][:64]!r}; it takes 'items' or 'item'.")
    if len(document) != 1:
        raise bad_request(f"The body has {'both' if document else 'neither'} 'items' and 'item'; send one of them.")
    if "item" in document:
        return Items([document["item"]], single=True)
    if type(document["items"]) is not list:
        raise bad_request(f"The member 'items' is {json_kind(document['items'])}; send a list.")
    return Items(document["items"], single=False)


def _from_form(parameters: str, body: bytes, most: int) -> Items:
    texts: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    try:
        # One part more than allowed, so that it is told in our words.
        config = ParseMultipartConfig(max_parts=most + 2)
        parse_multipart_form_data(_boundary(parameters), body, texts, files, config=config)
    except HTTPInputError as error:
        text = str(getattr(error, "log_message", None) or error).rstrip(".")
        raise bad_request(f"The form cannot be read: {text[:200] or 'it is malformed'}.") from None
    except UnicodeDecodeError:
        raise bad_request("The form has a part whose header is not UTF-8.") from None
    names = texts.keys() | files.keys()
    unknown = sorted(names - set(_NAMES))
    if unknown:
        raise bad_request(f"The form has the unknown field {unknown[0][:64]!r}; it takes 'items' or 'item'.")
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
MAX_BLOBS = 32


@dataclass(frozen=True, slots=True)
class _BlobReference:
    """Where bytes go: the item, and its member if it is an object that holds them; what they are given as."""

    index: int
    member: str | None
    given: dict[str, Any]


async def resolve_blobs(
    items: Sequence[Any], fetcher: Fetcher, *, parallel: int, deadline: float, reserve: Callable[[int], None]
) -> list[Any]:
    """Return `items` with a Blob where one said ``{"url": …}`` or ``{"b64": …}``; raise Problem.

    An item that is an object may have such values in it, one level down, `MAX_BLOBS` at most. `parallel` URLs are
    fetched at once; `reserve` takes room for the bytes of each, and raises Problem if there is none.
    """
    values = list(items)
    references = [reference for index, item in enumerate(values) for reference in _blob_references(index, item)]
    for reference in references:
        if "url" not in reference.given:
            _replace(values, reference, _decoded(reference))
    fetched = [reference for reference in references if "url" in reference.given]
    urls = [_url(reference) for reference in fetched]
    turn = asyncio.Semaphore(parallel)

    async def one(reference: _BlobReference, url: str) -> Blob:
        async with turn:
            blob = await fetcher.fetch(url, deadline=deadline, item=reference.index)
            reserve(len(blob.data))
            return blob

    tasks = [asyncio.ensure_future(one(reference, url)) for reference, url in zip(fetched, urls, strict=True)]
    try:
        for reference, blob in zip(fetched, await asyncio.gather(*tasks), strict=True):
            _replace(values, reference, blob)
    finally:
        for task in tasks:
            task.cancel()
    return values


def _blob_references(index: int, item: Any) -> Iterator[_BlobReference]:
    if type(item) is not dict:
        return
    if _is_blob_reference(item):
        yield _BlobReference(index, None, item)
        return
    found = [member for member, value in item.items() if type(value) is dict and _is_blob_reference(value)]
    if len(found) > MAX_BLOBS:
        text = f"Item {index} has {len(found)} members that are files or URLs; at most {MAX_BLOBS} are taken."
        raise problem.unusable(text, item=index)
    yield from (_BlobReference(index, member, item[member]) for member in found)


def _is_blob_reference(value: dict[str, Any]) -> bool:
    return "url" in value or value.keys() == {"b64"}


def _replace(values: list[Any], reference: _BlobReference, blob: Blob) -> None:
    values[reference.index] = blob if reference.member is None else {**values[reference.index], reference.member: blob}


def _decoded(reference: _BlobReference) -> Blob:
    try:
        return Blob(decode_b64(reference.index, reference.given["b64"]))
    except BadItem as error:
        raise problem.unusable(str(error), item=reference.index) from error


def _url(reference: _BlobReference) -> str:
    if reference.given.keys() != {"url"}:
        raise problem.unusable(
            f"Item {reference.index} has more than 'url' where it names a URL.", item=reference.index
        )
    url = reference.given["url"]
    if not isinstance(url, str):
        raise problem.unusable(f"Item {reference.index} has {json_kind(url)} as its URL.", item=reference.index)
    return url
