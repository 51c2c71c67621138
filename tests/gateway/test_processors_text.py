"""Texts to ids: tokens, the vocabulary, padding and cutting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import BadItem, Blob
from tfs_deploy.gateway.processors.registry import make_processor

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "!", "é", "don't"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return str(path)


def text(**options: Any) -> Any:
    return make_processor(ProcessorConfig(name="text", options={"input": "ids", **options}))


def test_tokens_become_ids_padded_to_one_length(vocabulary: str) -> None:
    arrays = text(vocabulary=vocabulary, max_length=4, mask_input="mask", length_input="length").preprocess(
        ["Hello WORLD", "", "hello moon hello world world"]
    )
    assert arrays["ids"].tolist() == [[4, 5, 0, 0], [0, 0, 0, 0], [4, 1, 4, 5]]
    assert arrays["mask"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert arrays["length"].tolist() == [2, 0, 4]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


def test_the_sides_of_padding_and_cutting_and_the_frame_tokens(vocabulary: str) -> None:
    options = {"vocabulary": vocabulary, "max_length": 4, "start_token": "[CLS]", "end_token": "[SEP]"}
    assert text(**options).preprocess(["hello world !"])["ids"].tolist() == [[2, 4, 5, 3]]
    cut = text(cut_side="left", pad_side="left", **options)
    assert cut.preprocess(["hello world !", "hello"])["ids"].tolist() == [[2, 5, 6, 3], [0, 2, 4, 3]]


def test_padding_to_the_longest(vocabulary: str) -> None:
    processor = text(vocabulary=vocabulary, pad_to="longest", dtype="int32")
    assert processor.preprocess(["hello", "hello world"])["ids"].tolist() == [[4, 0], [4, 5]]
    assert processor.preprocess([""])["ids"].shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "given", "ids"),
    [
        ({"tokenize": "regex"}, "hello, world!", [4, 1, 5, 6]),
        ({"tokenize": "regex", "pattern": r"[\w']+"}, "don't!", [8]),
        ({"tokenize": "characters"}, "!é", [6, 7]),
        ({"tokenize": "none"}, "hello", [4]),
        ({"lowercase": False}, "Hello hello", [1, 4]),
        ({}, "e\u0301", [7]),
        ({}, "\uff48\uff45\uff4c\uff4c\uff4f", [4]),
        ({"normalize": "none"}, "e\u0301", [1]),
        ({"strip_accents": True}, "h\u00e9llo", [4]),
    ],
)
def test_ways_to_split(vocabulary: str, options: dict[str, Any], given: str, ids: list[int]) -> None:
    processor = text(vocabulary=vocabulary, pad_to="longest", **options)
    assert processor.preprocess([given])["ids"].tolist() == [ids]


def test_models_that_take_text_get_text() -> None:
    array = text(encode="strings", tokenize="whitespace").preprocess(["  Grüß   Gott "])["ids"]
    assert array.tolist() == ["grüß gott".encode()]
    assert text(encode="strings", tokenize="none", lowercase=False).preprocess([" A "])["ids"].tolist() == [b" A "]


def test_what_an_item_may_be(vocabulary: str) -> None:
    processor = text(vocabulary=vocabulary, max_length=2)
    for item in ("hello", {"text": "hello"}, Blob(b"hello", "text/plain")):
        assert processor.preprocess([item])["ids"].tolist() == [[4, 0]]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (5, "a whole number"),
        (None, "null"),
        (["hello"], "a list"),
        ({"text": 5}, "a whole number"),
        ({"texts": "a"}, "an object"),
        ("\ud83d", "surrogate"),
        (Blob(b"\xff\xfe"), "not UTF-8"),
        ("a" * 100_001, "100001 characters"),
    ],
)
def test_what_is_no_text_is_one_sentence(vocabulary: str, item: Any, said: str) -> None:
    with pytest.raises(BadItem) as caught:
        text(vocabulary=vocabulary).preprocess(["hello", item])
    assert caught.value.index == 1
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no vocabulary"),
        ({"vocabulary": "no/such/file"}, "no/such/file"),
        ({"pad_token": "<pad>"}, "no token '<pad>'"),
        ({"pattern": "("}, "not a regular expression"),
        ({"tokenize": "regex", "pattern": "(a)"}, "has a group"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 2, "start_token": "[CLS]", "end_token": "[SEP]"}, "max_length is 2"),
        ({"dtype": "float32"}, "dtype"),
    ],
)
def test_options_that_do_not_fit_are_named(vocabulary: str, options: dict[str, Any], said: str) -> None:
    given = options if said in ("no vocabulary", "no/such/file") else {"vocabulary": vocabulary, **options}
    with pytest.raises(InvalidInput, match="'text'") as caught:
        text(**given)
    assert said in str(caught.value)


def test_a_vocabulary_with_a_token_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.txt"
    path.write_text("[PAD]\n[UNK]\na\nb\na\n")
    with pytest.raises(InvalidInput, match="'a' on the lines 3 and 5"):
        text(vocabulary=str(path))
