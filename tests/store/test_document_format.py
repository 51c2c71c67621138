"""The bytes of a stored document: every body comes back, and a JSON object stays one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.store.document_format import OVERHEAD_BYTES, decode, encode

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text() | st.just("_tfs_deploy_write"), json_values, max_size=5)
indents = st.sampled_from([None, 1, 4])
bodies = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda value, indent: json.dumps(value, indent=indent).encode(), objects, indents),
    st.sampled_from(
        [b"", b"{}", b"{ }\n", b"{", b"{}x", b"[]", b"1", b"\n{}", b'{"a":1}', b'{"a":1,}', b'{"a":"\xff"}']
    ),
)


@given(bodies)
def test_every_body_comes_back_with_its_tag(body: bytes) -> None:
    data, tag = encode(body)
    assert (decode(data).body, decode(data).tag) == (body, tag)
    assert len(data) <= len(body) + OVERHEAD_BYTES


@given(bodies)
def test_two_writes_of_a_body_are_two_states(body: bytes) -> None:
    assert encode(body)[1] != encode(body)[1]


@given(bodies)
def test_a_document_in_a_document_stays_one(body: bytes) -> None:
    inner, _ = encode(body)
    assert decode(encode(inner)[0]).body == inner


@given(objects, indents)
def test_a_json_object_is_stored_as_one(value: dict[str, object], indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    stored = json.loads(encode(body)[0])
    expected = {"_tfs_deploy_write": stored["_tfs_deploy_write"], **value}
    assert stored == expected
    assert next(iter(stored)) == "_tfs_deploy_write"


@given(bodies)
def test_the_old_form_has_the_body_behind_a_header_line(body: bytes) -> None:
    old = b"tfs-deploy-document 1 " + b"a" * 32 + b"\n" + body
    assert decode(old).body == body
    assert decode(old).tag == decode(old).tag
    assert decode(old).tag != decode(old + b" ").tag


@pytest.mark.parametrize(
    "rewritten",
    [
        b'{\n  "_tfs_deploy_write": "%b",\n  "a": 1\n}\n',
        b'{ "_tfs_deploy_write" : "%b" , "a": 1}',
    ],
)
def test_a_document_formatted_by_other_tools_loses_the_number_only(rewritten: bytes) -> None:
    assert json.loads(decode(rewritten.replace(b"%b", b"0" * 32)).body) == {"a": 1}


def test_a_bare_body_has_a_tag_of_its_bytes() -> None:
    assert decode(b'{"a": 1}').body == b'{"a": 1}'
    assert decode(b'{"a": 1}').tag == decode(b'{"a": 1}').tag != decode(b'{"a": 2}').tag
