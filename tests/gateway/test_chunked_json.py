"""Large JSON in pieces: the same values and the same refusals as in one go, and the loop goes on meanwhile."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.gateways import is_problem, run
from gateway.model_servers import Replica, version
from tfs_deploy.gateway.web import chunked_json

NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(st.lists(NUMBERS, max_size=4), max_size=6)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


@pytest.fixture(autouse=True)
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is small count as large."""
    monkeypatch.setattr(chunked_json, "LARGE_BYTES", 8)
    monkeypatch.setattr(chunked_json, "_PIECE_BYTES", 4)
    monkeypatch.setattr(chunked_json, "_PIECE", 3)
    monkeypatch.setattr(chunked_json, "_MAX_ELEMENTS", 4)


def plain(value: Any) -> Any:
    return value.tolist()


@given(VALUES, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
def test_values_are_read_as_in_one_go(value: Any, indent: int | None, separators: tuple[str, str]) -> None:
    for document in (value, {"items": value}, {"item": value, "a": [value]}):
        body = json.dumps(document, indent=indent, separators=separators).encode()
        assert chunked_json.decode(body) == msgspec.json.decode(body)


@given(VALUES, st.data())
def test_damaged_bodies_are_refused_as_in_one_go(value: Any, data: st.DataObject) -> None:
    body = bytearray(json.dumps({"items": value}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        if data.draw(st.booleans()):
            body[at : at + 1] = data.draw(st.sampled_from([b"", b",", b"[", b"]", b" ", b"1", b"\xff", b"e", b'"']))
        else:
            body[at:at] = data.draw(st.sampled_from([b",", b"[", b"]", b"],[", b"{", b"0", b"-"]))
    assert outcome(chunked_json.decode, bytes(body)) == outcome(msgspec.json.decode, bytes(body))


def outcome(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "refused"


@given(VALUES)
def test_values_are_written_as_in_one_go(value: Any) -> None:
    for document in (value, {"results": value, "n": 1}):
        assert chunked_json.encode(document, plain) == msgspec.json.encode(document)


def test_arrays_among_the_values_are_written() -> None:
    document = {"results": [{"a": np.arange(20)}] * 5, "b": [np.float32(0.5)] * 9}
    assert chunked_json.encode(document, plain) == msgspec.json.encode(document, enc_hook=plain)


@pytest.mark.parametrize("shape", [(20_000,), (40, 500), (500, 20, 2), (20_000, 1)])
def test_large_items_come_and_go_whole(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random(shape, np.float32)
    replica = Replica({1: version((None,) * (len(shape) + 1))}, {"stable": 1})
    got = run(lambda g: g.predict({"items": [values.tolist(), (values * 2).tolist()]}), replica, model={})
    assert got.status == 200, got.json
    np.testing.assert_array_equal(np.array(got.json["results"][1], np.float32), values * 2)


def test_deep_nesting_is_not_gone_through_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    decode = msgspec.json.decode

    def counted(text: Any, **options: Any) -> Any:
        looks.append(len(text))
        return decode(text, **options)

    body = b'{"item": ' + b"[" * 500 + b"1," * 500 + b"1" + b"]" * 500 + b"}"
    monkeypatch.setattr(chunked_json.msgspec.json, "decode", counted)
    assert chunked_json.decode(body) == decode(body)
    assert len(looks) < 10


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"item": [' + b"1," * 200_000 + b"]}", 400),
        (b'{"item": [' + b"1," * 200_000 + b"01]}", 400),
        (b'{"item": [' + b"1," * 200_000 + b'"x"]}', 422),
        (b'{"item": [' + b"1," * 200_000 + b"[]]}", 422),
        (b'{"item": [' + b"[]," * 100_000 + b"[]]}", 422),
        (b"[" + b"1," * 200_000 + b"1]", 400),
        (b'{"items": [' + b"1," * 200_000 + b"1]}", 413),
    ],
)
def test_large_bad_bodies_get_the_right_status(body: bytes, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert is_problem(run(lambda g: g.predict(body, Content_Type="application/json"), model={}), status)
