"""Texts to token ids: normalise, split into tokens, map them by a vocabulary, pad or cut to one length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadItem, Blob, json_kind
from tfs_deploy.gateway.processors.tensors import rows_as_json

# A vocabulary of a million tokens takes some 100 MB of memory; a larger file is a wrong path.
_MAX_VOCABULARY_BYTES = 64 << 20


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`vocabulary` is a UTF-8 file with one token per line; an id is a line number from 0. Without it `encode` must be
    ``strings``, and the model gets the text. `mask_input` and `length_input` name further inputs of the model.
    """

    input: str
    encode: Literal["ids", "strings"] = "ids"
    vocabulary: str = ""
    tokenize: Literal["whitespace", "regex", "characters", "none"] = "whitespace"
    # A token of `regex`: a word, or any other character by itself.
    pattern: str = r"\w+|[^\w\s]"
    lowercase: bool = True
    normalize: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = "NFKC"
    strip_accents: bool = False
    max_length: int = 128
    pad_to: Literal["max_length", "longest"] = "max_length"
    pad_side: Literal["right", "left"] = "right"
    cut_side: Literal["right", "left"] = "right"
    pad_token: str = "[PAD]"  # noqa: S105 - a token of a text
    oov_token: str = "[UNK]"  # noqa: S105
    start_token: str = ""
    end_token: str = ""
    dtype: Literal["int32", "int64"] = "int64"
    mask_input: str = ""
    length_input: str = ""
    max_characters: int = 100_000


class TextProcessor:
    """One item is a string, ``{"text": …}`` or a UTF-8 file; a result is the row of the outputs."""

    Options = TextOptions
    reentrant = True
    paths = ("vocabulary",)

    def __init__(self, options: TextOptions) -> None:
        self.batches = True
        self.takes_blobs = False
        self._options = options
        self._split = _tokenizer(options)
        self._ids: dict[str, int] = {}
        if options.encode == "ids":
            self._ids = _read_vocabulary(options.vocabulary)
            self._pad, self._oov = (self._id_of(token) for token in (options.pad_token, options.oov_token))
            self._start, self._end = (
                [self._id_of(token)] if token else [] for token in (options.start_token, options.end_token)
            )
            if options.max_length <= len(self._start) + len(self._end):
                raise InvalidInput(
                    f"The text option max_length is {options.max_length}.",
                    "Use a length above the number of start and end tokens.",
                )

    def preprocess(self, items: Sequence[Any]) -> dict[str, Array]:
        """Return the ids `[n, length]` (or the texts `[n]`), and the mask and the lengths where configured."""
        texts = [self._normalized(self._text(index, item)) for index, item in enumerate(items)]
        if not texts:
            raise InvalidInput("There are no items.", "Send at least one.")
        if self._options.encode == "strings":
            array = np.empty(len(texts), dtype=object)
            array[:] = [_utf8(index, " ".join(self._split(text))) for index, text in enumerate(texts)]
            return {self._options.input: array}
        return self._padded([self._encoded(text) for text in texts])

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return each row of the outputs as JSON values."""
        return rows_as_json(outputs)

    def _text(self, index: int, item: Any) -> str:
        if isinstance(item, Blob):
            try:
                item = item.data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadItem(index, "is a file that is not UTF-8 text", "Save it as UTF-8.") from error
        elif isinstance(item, dict) and item.keys() == {"text"}:
            item = item["text"]
        if not isinstance(item, str):
            raise BadItem(index, f"is {json_kind(item)} where a text is expected")
        if len(item) > self._options.max_characters:
            raise BadItem(
                index,
                f"has {len(item)} characters; at most {self._options.max_characters} are allowed",
                "Shorten the text.",
            )
        _utf8(index, item)
        return item

    def _normalized(self, text: str) -> str:
        options = self._options
        if options.strip_accents:
            text = "".join(
                character for character in unicodedata.normalize("NFD", text) if not unicodedata.combining(character)
            )
        if options.normalize != "none":
            text = unicodedata.normalize(options.normalize, text)
        return text.lower() if options.lowercase else text

    def _encoded(self, text: str) -> list[int]:
        ids = [self._ids.get(token, self._oov) for token in self._split(text)]
        available = self._options.max_length - len(self._start) - len(self._end)
        kept = ids[:available] if self._options.cut_side == "right" else ids[-available:]
        return [*self._start, *kept, *self._end]

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Array]:
        options = self._options
        lengths = np.array([len(row) for row in rows], dtype=options.dtype)
        # At least one column, because a model may not accept an array without columns.
        width = options.max_length if options.pad_to == "max_length" else max(1, int(lengths.max()))
        ids = np.full((len(rows), width), self._pad, dtype=options.dtype)
        mask = np.zeros((len(rows), width), dtype=options.dtype)
        for row, values in enumerate(rows):
            columns = slice(0, len(values)) if options.pad_side == "right" else slice(width - len(values), width)
            ids[row, columns] = values
            mask[row, columns] = 1
        arrays = {options.input: ids}
        if options.mask_input:
            arrays[options.mask_input] = mask
        if options.length_input:
            arrays[options.length_input] = lengths
        return arrays

    def _id_of(self, token: str) -> int:
        if token not in self._ids:
            raise InvalidInput(
                f"The vocabulary {self._options.vocabulary} has no token {token!r}.",
                "Add it, or set pad_token, oov_token, start_token and end_token to tokens that are in it.",
            )
        return self._ids[token]


def _tokenizer(options: TextOptions) -> Callable[[str], list[str]]:
    try:
        pattern = re.compile(options.pattern)
    except re.error as error:
        raise InvalidInput(f"The text option pattern is not a regular expression: {error}.", "Correct it.") from error
    if pattern.groups and options.tokenize == "regex":
        # findall would return the groups instead of the tokens.
        raise InvalidInput("The text option pattern has a group.", "Write it as (?:…).")
    tokenizers: Mapping[str, Callable[[str], list[str]]] = {
        "whitespace": str.split,
        "regex": pattern.findall,
        "characters": list,
        "none": lambda text: [text],
    }
    return tokenizers[options.tokenize]


def _read_vocabulary(name: str) -> dict[str, int]:
    if not name:
        raise InvalidInput("The text processor has no vocabulary.", "Set vocabulary, or encode: strings.")
    path = Path(name)
    try:
        if path.stat().st_size > _MAX_VOCABULARY_BYTES:
            raise InvalidInput(f"The vocabulary {path} is over {_MAX_VOCABULARY_BYTES} bytes.", "Check the path.")
        # Not splitlines(): a token may have one of Unicode's other line separators.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The vocabulary {path} cannot be read: {error}.", "Check the path.") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in ids:
            raise InvalidInput(
                f"The vocabulary {path} has {token!r} on the lines {ids[token] + 1} and {number + 1}.", "Keep one."
            )
        ids[token] = number
    return ids


def _utf8(index: int, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadItem(index, "has half a surrogate pair, which is not text") from error
