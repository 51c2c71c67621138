"""One answer of a web server as it comes in: refused by its head where possible, and never larger than allowed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from tornado import httputil

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A server that sends many interim answers (RFC 9110, 15.2) only holds a place.
_MOST_INTERIM = 4
_GZIP = 16 + zlib.MAX_WBITS


class Refusal(Exception):
    """The answer is not taken; the text ends a sentence that begins with «The URL». `clients_fault`: by its choice."""

    def __init__(self, reason: str, *, clients_fault: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.clients_fault = clients_fault


class Answer(httputil.HTTPMessageDelegate):
    """Collects one answer; calls `close` as soon as it wants no more of it, and then has `refusal` or `location`."""

    def __init__(self, *, max_bytes: int, content_types: Sequence[str], close: Callable[[], None]) -> None:
        self.body = bytearray()
        self.content_type = ""
        self.location: str | None = None
        self.refusal: Refusal | None = None
        self.complete = False
        self.began = False
        self._max_bytes = max_bytes
        self._received = 0
        self._content_types = content_types
        self._close = close
        self._interim = 0
        self._inflate: _Gunzip | None = None

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        """Decide by the head whether the body is wanted."""
        assert isinstance(start_line, httputil.ResponseStartLine)
        if 100 <= start_line.code < 200:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self._refuse("is answered without end", clients_fault=False)
            return
        self.began = True
        if start_line.code in _REDIRECTS and "Location" in headers:
            self.location = headers.get_list("Location")[0]
            self._close()
            return
        self._look_at_head(start_line.code, headers)

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body, or close where it becomes too large."""
        if self.refusal is not None:
            return
        self._received += len(chunk)
        try:
            # One byte more than allowed is enough to know.
            data = self._inflate(chunk, self._max_bytes + 1 - len(self.body)) if self._inflate else chunk
        except zlib.error:
            self._refuse("sends a body that is not the gzip that it says it is")
            return
        if self._received > self._max_bytes or len(self.body) + len(data) > self._max_bytes:
            self._refuse(self._too_large())
            return
        self.body += data

    def finish(self) -> None:
        """Note that the whole answer is here."""
        if self.refusal is None and self._inflate is not None and not self._inflate.whole:
            self._refuse("ends in the middle of its body", clients_fault=False)
        self.complete = self.refusal is None

    def on_connection_close(self) -> None:
        """Leave it as it is: incomplete."""

    def _look_at_head(self, code: int, headers: httputil.HTTPHeaders) -> None:
        if code != 200:
            self._refuse(f"answers with the status {code}", clients_fault=code < 500)
            return
        self.content_type = headers.get("Content-Type", "application/octet-stream").split(";")[0].strip().lower()
        length = headers.get("Content-Length", "")
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if not any(fnmatchcase(self.content_type, pattern.lower()) for pattern in self._content_types):
            self._refuse(f"has the content type {self.content_type[:100]!r}, which is not taken")
        elif length.isdecimal() and int(length[:20]) > self._max_bytes:
            self._refuse(self._too_large())
        elif coding in ("gzip", "x-gzip"):
            self._inflate = _Gunzip()
        elif coding not in ("", "identity"):
            self._refuse(f"has a body in the coding {coding[:40]!r}, which was not asked for")

    def _refuse(self, reason: str, *, clients_fault: bool = True) -> None:
        self.refusal = Refusal(reason, clients_fault=clients_fault)
        self._close()

    def _too_large(self) -> str:
        return f"has more than {self._max_bytes} bytes"


class _Gunzip:
    """Takes gzip in parts and gives no more than it is asked for, however much is in it."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    @property
    def whole(self) -> bool:
        """Tell whether the end of the compressed data was seen."""
        return self._stream.eof

    def __call__(self, data: bytes, most: int) -> bytes:
        """Return what `data` decompresses to, cut off after `most` bytes; what follows the end is ignored."""
        return self._stream.decompress(data, most)
