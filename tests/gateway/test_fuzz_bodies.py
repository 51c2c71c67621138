"""Hypothesis on what a stranger may send: the process lives, every answer is a documented one, errors are problems."""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.background import MODELS, background_gateway
from gateway.gateways import form, png
from tfs_deploy.gateway.problem import CONTENT_TYPE

EXAMPLES = 120
DOCUMENTED = {200, 400, 404, 405, 408, 413, 415, 422, 429}
STATUSES: Counter[int] = Counter()

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["NaN", "Infinity", "http://127.0.0.1/", "file:///etc/passwd"])
    | st.builds(lambda data: {"b64": data}, st.text(max_size=20) | st.just("iVBORw0KGgo=")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["url", "b64", "x", "text", "a"]), inner, max_size=3)
    ),
    max_leaves=20,
)
DOCUMENTS = st.one_of(
    st.builds(lambda value: {"item": value}, VALUES),
    st.builds(lambda value: {"items": value}, st.lists(VALUES, max_size=4)),
    st.dictionaries(st.sampled_from(["item", "items", "instances", ""]), VALUES, max_size=3),
    VALUES,
)
NAMES = st.sampled_from([*MODELS, "nothing", "..", "%2e%2e", "a%00b", "numbers/labels/stable", "numbers/labels/x"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with background_gateway(limits={"body_mib": 0.2, "items": 8}) as started:
        yield started


@pytest.fixture(autouse=True)
def tried(tell: Callable[[str], None], request: pytest.FixtureRequest) -> Iterator[None]:
    """Tell how many requests a test made, and how they were answered."""
    before = Counter(STATUSES)
    yield
    made = STATUSES - before
    tell(f"{request.node.name}: {made.total()} tried, answered with {dict(sorted(made.items()))}")
    assert made.total() >= EXAMPLES / 2


def fuzzed(function: Any) -> Any:
    return settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )(function)


def ask(url: str, model: str, body: bytes, headers: dict[str, str], method: str = "POST") -> int:
    """Send one request, check its answer, and check that the gateway goes on; return the status."""
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=60.0)
    try:
        connection.request(method, f"/v1/models/{model}", body, headers)
        answer = connection.getresponse()
        data = answer.read()
        check(answer.status, answer.headers["Content-Type"], data if method != "HEAD" else None)
        connection.close()
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    STATUSES[answer.status] += 1
    return answer.status


def check(status: int, kind: str, data: bytes | None) -> None:
    assert status in DOCUMENTED, (status, data)
    if status >= 400:
        assert kind == CONTENT_TYPE
        if data is not None:
            document = json.loads(data)
            assert document["status"] == status
            assert document["detail"].endswith(".")
            assert b"Traceback" not in data
    elif data is not None:
        json.loads(data)


@given(model=NAMES, document=DOCUMENTS)
@fuzzed
def test_any_json(url: str, model: str, document: Any) -> None:
    ask(url, model, json.dumps(document).encode(), {"Content-Type": "application/json"})


@given(model=NAMES, body=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/plain", ""]))
@fuzzed
def test_any_bytes(url: str, model: str, body: bytes, kind: str) -> None:
    ask(url, model, body, {"Content-Type": kind})


@given(
    model=NAMES,
    document=DOCUMENTS,
    cut=st.integers(0, 60),
    put=st.binary(max_size=4),
)
@fuzzed
def test_json_that_was_damaged(url: str, model: str, document: Any, cut: int, put: bytes) -> None:
    body = json.dumps(document).encode()
    ask(url, model, body[:cut] + put + body[cut + 1 :], {"Content-Type": "application/json; charset=utf-8"})


_PART = st.tuples(
    st.sampled_from(["item", "items", "file", "", '"', "ä"]),
    st.sampled_from([None, "a.png", "", "../../x", 'q"', "\u202e.png"]),
    st.binary(max_size=60) | st.just(png()) | st.builds(lambda end: png(size=32)[:end], st.integers(0, 80)),
)


@given(model=NAMES, parts=st.lists(_PART, max_size=10), at=st.integers(0, 400), put=st.binary(max_size=3))
@fuzzed
def test_forms_whole_and_damaged(url: str, model: str, parts: list[Any], at: int, put: bytes) -> None:
    body, kind = form(*parts)
    body = body[:at] + put + body[at + len(put) :] if put else body
    ask(url, model, body, {"Content-Type": kind})


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X"]),
    name=st.sampled_from(["X-Request-Timeout", "X-Request-Id", "Content-Type", "Authorization", "Origin", "Accept"]),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    model=NAMES,
)
@fuzzed
def test_any_method_and_header(url: str, method: str, name: str, value: str, model: str) -> None:
    ask(url, model, b'{"item": 1}', {"Content-Type": "application/json", name: value.encode("latin-1")}, method)


@given(data=st.binary(max_size=200) | st.text("GET POST/v1models HTTP1.0\r\n:", max_size=120).map(str.encode))
@fuzzed
def test_what_is_no_http_at_all_ends_the_connection_and_nothing_else(url: str, data: bytes) -> None:
    host, port = urlsplit(url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=60.0) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    ask(url, "numbers", b'{"item": 1}', {"Content-Type": "application/json"})
