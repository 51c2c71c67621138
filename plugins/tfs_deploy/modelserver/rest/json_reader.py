"""Reads JSON with the grammar and the errors of TF Serving's parser (RapidJSON 1.1, with NaN and infinities).

Python's own, faster parser reads documents that both parsers read in the same way. Documents that it refuses, or may
read differently, go to `_Reader`, which has RapidJSON's grammar and reports the error and its byte.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tfs_deploy.modelserver.rest.json_writer import INT64_MIN, UINT64_MAX, decoded
from tfs_deploy.modelserver.status import StatusError, invalid_argument

# The parsers differ for half a surrogate pair, a number that may be beyond a double, and a NUL.
_DIFFERENT = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?0*(?:[3-9][0-9]{2}|[0-9]{4})|[0-9]{300}|\x00")
_SPACE = b" \n\r\t"
_DIGITS = frozenset(b"0123456789")
_SIMPLE = {ord(key): value for key, value in {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}.items()}  # fmt: skip
_UNTIL_SPECIAL = re.compile(rb'[^"\\\x00-\x1f]*')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse(body: bytes) -> Any:
    """Return the value in `body`; raise INVALID_ARGUMENT."""
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    if not _DIFFERENT.search(body):
        try:
            return json.loads(decoded(body), object_pairs_hook=_object)
        except (ValueError, RecursionError):
            pass  # `_Reader` raises the error, if there is one
    try:
        return _Reader(body).document()
    except RecursionError as error:
        # TF Serving has no limit here and may overflow its stack.
        raise invalid_argument("JSON Parse error: The document is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; of several members with one name, the first counts."""
    members = dict(pairs)
    if len(members) != len(pairs):
        members.update(reversed(pairs))
    return members


class _Reader:
    """One pass over the bytes; `_at` is the position of the next one."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0

    def document(self) -> Any:
        self._skip_space()
        if not self._peek():
            self._fail("The document is empty.")
        value = self._value()
        self._skip_space()
        if self._peek():
            self._fail("The document root must not be followed by other values.")
        return value

    def _peek(self) -> int:
        """Return the next byte; 0 at the end."""
        return self._body[self._at] if self._at < len(self._body) else 0

    def _takes(self, expected: bytes) -> bool:
        """Take `expected` byte by byte; stop before the first other byte."""
        for byte in expected:
            if self._peek() != byte:
                return False
            self._at += 1
        return True

    def _skip_space(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in _SPACE:
            self._at += 1

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        raise self._error(problem, at)

    def _error(self, problem: str, at: int | None = None) -> StatusError:
        return invalid_argument(f"JSON Parse error: {problem} at offset: {self._at if at is None else at}")

    def _value(self) -> Any:
        byte = self._peek()
        if byte == ord("{"):
            return self._members()
        if byte == ord("["):
            return self._elements()
        if byte == ord('"'):
            return decoded(self._string())
        for word, value in ((b"null", None), (b"true", True), (b"false", False)):
            if byte == word[0]:
                if not self._takes(word):
                    self._fail("Invalid value.")
                return value
        return self._number()

    def _members(self) -> dict[str, Any]:
        self._at += 1
        self._skip_space()
        pairs: list[tuple[str, Any]] = []
        if self._takes(b"}"):
            return {}
        while True:
            if self._peek() != ord('"'):
                self._fail("Missing a name for object member.")
            name = decoded(self._string())
            self._skip_space()
            if not self._takes(b":"):
                self._fail("Missing a colon after a name of object member.")
            self._skip_space()
            pairs.append((name, self._value()))
            self._skip_space()
            if self._takes(b"}"):
                return _object(pairs)
            if not self._takes(b","):
                self._fail("Missing a comma or '}' after an object member.")
            self._skip_space()

    def _elements(self) -> list[Any]:
        self._at += 1
        self._skip_space()
        elements: list[Any] = []
        if self._takes(b"]"):
            return elements
        while True:
            elements.append(self._value())
            self._skip_space()
            if self._takes(b"]"):
                return elements
            if not self._takes(b","):
                self._fail("Missing a comma or ']' after an array element.")
            self._skip_space()

    def _string(self) -> bytes:
        self._at += 1
        parts = bytearray()
        while True:
            plain = _UNTIL_SPECIAL.match(self._body, self._at)
            if plain:
                parts += plain[0]
                self._at = plain.end()
            byte = self._peek()
            if byte == ord('"'):
                self._at += 1
                return bytes(parts)
            if byte == ord("\\"):
                parts += self._escape()
            elif byte == 0:
                self._fail("Missing a closing quotation mark in string.")
            else:
                self._fail("Invalid escape character in string.")

    def _escape(self) -> bytes:
        start = self._at
        self._at += 1
        byte = self._peek()
        if byte in _SIMPLE:
            self._at += 1
            return _SIMPLE[byte].encode()
        if byte != ord("u"):
            self._fail("Invalid escape character in string.", start)
        self._at += 1
        code = self._hex(start)
        if 0xD800 <= code <= 0xDBFF:
            second = self._hex(start) if self._takes(b"\\u") else 0
            if not 0xDC00 <= second <= 0xDFFF:
                self._fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00)
        return chr(code).encode("utf-8", errors="surrogatepass")

    def _hex(self, start: int) -> int:
        digits = self._body[self._at : self._at + 4]
        if not re.fullmatch(rb"[0-9a-fA-F]{4}", digits):
            self._fail("Incorrect hex digit after \\u escape in string.", start)
        self._at += 4
        return int(digits, 16)

    def _number(self) -> int | float:
        start = self._at
        negative = self._takes(b"-")
        if self._peek() in b"IN":
            return self._not_finite(negative)
        if self._peek() not in _DIGITS:
            self._fail("Invalid value.")
        if not self._takes(b"0"):
            self._skip_digits()
        whole = True
        if self._takes(b"."):
            whole = False
            self._require_digits("Miss fraction part in number.")
        if self._peek() in b"eE":
            whole = False
            self._at += 1
            if self._peek() in b"+-":
                self._at += 1
            self._require_digits("Miss exponent in number.")
        return self._finished(self._body[start : self._at], whole, start)

    def _finished(self, text: bytes, whole: bool, start: int) -> int | float:
        number = float(text)
        if number in (float("inf"), float("-inf")):
            self._fail("Number too big to be stored in double.", start)
        if whole and abs(number) <= 2.0**64:  # so it is short enough for int()
            exact = int(text)
            return exact if INT64_MIN <= exact <= UINT64_MAX else number
        return number

    def _not_finite(self, negative: bool) -> float:
        if self._takes(b"N"):
            if self._takes(b"aN"):
                return float("nan")
        elif self._takes(b"Inf") and (self._peek() != ord("i") or self._takes(b"inity")):
            return float("-inf") if negative else float("inf")
        self._fail("Invalid value.")

    def _skip_digits(self) -> None:
        while self._peek() in _DIGITS:
            self._at += 1

    def _require_digits(self, complaint: str) -> None:
        if self._peek() not in _DIGITS:
            self._fail(complaint)
        self._skip_digits()
