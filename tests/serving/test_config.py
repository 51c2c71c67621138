"""ModelServerConfig: values, messages and text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.config import ModelEntry, from_proto, from_text, to_proto, to_text

versions = st.integers(1, 2**63 - 1)
entries = st.builds(
    ModelEntry,
    name=st.from_regex(r"[a-z0-9_][a-zA-Z0-9_.\-]{0,20}", fullmatch=True),
    base_path=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(lambda text: "/" + text),
    versions=st.lists(versions, min_size=1, max_size=4, unique=True).map(tuple),
    labels=st.dictionaries(st.from_regex(r"[a-z]\w{0,9}", fullmatch=True).filter(str.isascii), versions, max_size=3),
)


@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.name))
def test_entries_survive_text_and_message(given_entries: list[ModelEntry]) -> None:
    assert from_text(to_text(given_entries)) == tuple(given_entries)
    assert from_proto(to_proto(given_entries)) == tuple(given_entries)


def test_the_same_entries_give_the_same_text() -> None:
    one = ModelEntry("m", "/m", (2, 1), {"stable": 1, "canary": 2})
    other = ModelEntry("m", "/m", (2, 1), {"canary": 2, "stable": 1})
    assert to_text([one]) == to_text([other])


def test_an_empty_config_is_a_list() -> None:
    config = to_proto([])
    assert config.WhichOneof("config") == "model_config_list"
    assert to_text([]).split() == ["model_config_list", "{", "}"]
    assert from_text("") == ()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (ModelEntry("../m", "/m", (1,)), "model name"),
        (ModelEntry("m", "m", (1,)), "base path 'm' of model 'm' is not absolute"),
        (ModelEntry("m", "/m", ()), "lists no version"),
        (ModelEntry("m", "/m", (1, 1)), "lists a version twice"),
        (ModelEntry("m", "/m", (-1,)), "version -1"),
        (ModelEntry("m", "/m", (0, 1), {"stable": 0}), "version 0"),
        (ModelEntry("m", "/m", (1,), {"a b": 1}), "label 'a b'"),
        (ModelEntry("m", "/m", (1,), {"a": -1}), "version -1"),
    ],
)
def test_unusable_entries_are_refused(entry: ModelEntry, complaint: str) -> None:
    for write in (to_proto, to_text):
        with pytest.raises(InvalidInput, match=complaint):
            write([entry])


def test_a_model_is_listed_once() -> None:
    with pytest.raises(InvalidInput, match="'m' is listed twice"):
        to_proto([ModelEntry("m", "/m", (1,))] * 2)


PREFIX = 'name: "m" base_path: "/m" '


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model_config_list {", "not a model server config"),
        ("models { }", "not a model server config"),
        ("custom_model_config { }", "custom_model_config"),
        (f'model_config_list {{ config {{ {PREFIX} model_platform: "tensorflow" }} }}', "does not list its versions"),
        (
            f"model_config_list {{ config {{ {PREFIX} model_version_policy {{ latest {{ num_versions: 1 }} }} }} }}",
            "does not list its versions",
        ),
        (
            f"model_config_list {{ config {{ {PREFIX} model_version_policy {{ specific {{ versions: 1 }} }} }} }}",
            "platform ''",
        ),
        (
            f'model_config_list {{ config {{ {PREFIX} model_platform: "tensorflow" logging_config {{ }} '
            "model_version_policy { specific { versions: 1 } } } }",
            "logging_config",
        ),
    ],
)
def test_texts_that_are_no_entries_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        from_text(text)
