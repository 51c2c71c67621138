"""Read the items of a request's body (JSON, or a form with uploads), and replace URLs and base64 by their bytes."""

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
# Per item, which stands for the few inputs of a model. Without a bound a small body could name 100 000 URLs.
MAX_BLOBS = 32


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one request; `single` means that the body had ``item`` and the reply has ``result``."""

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
            f"The request has {len(items.values)} items; send at most {most} at once.",
        )
    if not items.values:
        raise bad_request("The list 'items' is empty; send at least one item.")
    return items


def check_kind(headers: HTTPHeaders) -> None:
    """Raise Problem (415) for a media type or an encoding that is not supported, before the body is received."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, FORM):
        raise _unsupported(f"The body must be {JSON} or {FORM}; set its Content-Type.")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise _unsupported("The body must not be compressed; send it without Content-Encoding.")


def read_timeout(headers: HTTPHeaders, *, most: float) -> float:
    """Return the request's timeout in seconds: its header, at most `most`; raise Problem (400)."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return most
    try:
        # float() also accepts "1_0", "inf" and the digits of every script.
        seconds = float(given) if given.isascii() and "_" not in given else math.nan
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise bad_request(f"The header {TIMEOUT_HEADER} must be a positive number of seconds.")
    return min(seconds, most)


def _from_json(body: bytes) -> Items:
    try:
        document = chunked_json.decode(body)
    except UnicodeDecodeError:
        raise bad_request("The body is not UTF-8.") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.") from None
    except msgspec.DecodeError as error:
        # The position is right only where the body was decoded as a whole.
        reason = str(error).partition(" (byte")[0] if len(body) > chunked_json.LARGE_BYTES else str(error)
        raise bad_request(f"The body is not JSON: {reason.rstrip('.')}.") from None
    if type(document) is not dict:
        raise bad_request(f'The body is {json_kind(document)}; send an object like {{"items": [...]}}.')
    unknown = sorted(document.keys() - set(_NAMES))
    if unknown:
        raise bad_request(f"The body has the unknown member {unknown[0][:64]!r}; send 'items' or 'item'.")
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
        # More parts than allowed, so that the limit is reported by `read_items`.
        config = ParseMultipartConfig(max_parts=most + 2)
        parse_multipart_form_data(_boundary(parameters), body, texts, files, config=config)
    except HTTPInputError as error:
        reason = str(getattr(error, "log_message", None) or error).rstrip(".")
        raise bad_request(f"The form cannot be read: {reason[:200] or 'it is malformed'}.") from None
    except UnicodeDecodeError:
        raise bad_request("The form has a part whose header is not UTF-8.") from None
    names = texts.keys() | files.keys()
    unknown = sorted(names - set(_NAMES))
    if unknown:
        raise bad_request(f"The form has the unknown field {unknown[0][:64]!r}; send 'items' or 'item'.")
    if len(names) != 1 or (texts and files):
        fields = "no field 'items' or 'item'" if not names else "files and texts, or 'items' and 'item', mixed"
        raise bad_request(f"The form has {fields}; send one kind of field.")
    name = next(iter(names))
    values: list[Any] = [_blob(file) for file in files.get(name, [])] + [
        _text(reason) for reason in texts.get(name, [])
    ]
    if name == "item" and len(values) > 1:
        raise bad_request("The form has the field 'item' more than once; use 'items'.")
    return Items(values, single=name == "item")


def _boundary(parameters: str) -> bytes:
    for part in parameters.split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() == "boundary" and value:
            return value.encode("latin-1", "replace")
    raise bad_request("The Content-Type of the form has no boundary; add it.")


def _blob(file: HTTPFile) -> Blob:
    return Blob(file.body, file.content_type, file.filename)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request("The form has a text that is not UTF-8; send binary content as a file.") from None


def _unsupported(detail: str) -> Problem:
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Unsupported media type", detail)


@dataclass(frozen=True, slots=True)
class _BlobReference:
    """A value ``{"url": …}`` or ``{"b64": …}``, and its place: an item, or a member of the item `index`."""

    index: int
    member: str | None
    given: dict[str, Any]


async def resolve_blobs(
    items: Sequence[Any], fetcher: Fetcher, *, parallel: int, deadline: float, reserve: Callable[[int], None]
) -> list[Any]:
    """Return `items` with a Blob in place of each ``{"url": …}`` and ``{"b64": …}``; raise Problem.

    An item that is an object may hold up to `MAX_BLOBS` of these one level down. `parallel` URLs are fetched at once;
    `reserve` adds the bytes of each to the request's permit, and raises Problem where the budget is used up.
    """
    values = list(items)
    references = [reference for index, item in enumerate(values) for reference in _blob_references(index, item)]
    for reference in references:
        if "url" not in reference.given:
            _replace(values, reference, _decoded(reference))
    fetched = [reference for reference in references if "url" in reference.given]
    urls = [_url(reference) for reference in fetched]
    turn = asyncio.Semaphore(parallel)

    async def fetch(reference: _BlobReference, url: str) -> Blob:
        async with turn:
            blob = await fetcher.fetch(url, deadline=deadline, item=reference.index)
            reserve(len(blob.data))
            return blob

    tasks = [asyncio.ensure_future(fetch(reference, url)) for reference, url in zip(fetched, urls, strict=True)]
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
    members = [member for member, value in item.items() if type(value) is dict and _is_blob_reference(value)]
    if len(members) > MAX_BLOBS:
        detail = f"Item {index} has {len(members)} members that are files or URLs; send at most {MAX_BLOBS}."
        raise problem.unusable(detail, item=index)
    yield from (_BlobReference(index, member, item[member]) for member in members)


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
            f"Item {reference.index} has further members beside 'url'; send 'url' alone.", item=reference.index
        )
    url = reference.given["url"]
    if not isinstance(url, str):
        raise problem.unusable(
            f"Item {reference.index} has {json_kind(url)} as its URL; send a string.", item=reference.index
        )
    return url
