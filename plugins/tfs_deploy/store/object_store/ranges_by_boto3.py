"""Let boto3 fetch pieces where obstore cannot: some servers give them with status 200, which object_store refuses."""

from __future__ import annotations

from collections.abc import Iterator

from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.transfer import Buffer, Transfer


class RangesByBoto3:
    """One transfer, whose pieces another one fetches as soon as the first has found that it cannot."""

    def __init__(self, first: Transfer, second: Transfer) -> None:
        self._first = first
        self._second = second
        self._ranges = first

    def put(self, name: str, body: Buffer, *, sha256: str) -> None:
        self._first.put(name, body, sha256=sha256)

    def put_parts(self, name: str, parts: Iterator[memoryview], *, sha256: str, part_bytes: int) -> None:
        self._first.put_parts(name, parts, sha256=sha256, part_bytes=part_bytes)

    def get(self, name: str, *, size: int) -> Buffer:
        return self._first.get(name, size=size)

    def range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        if self._ranges is self._first:
            try:
                yield from self._first.range(name, start, end)
                return
            except NoPieces:
                # Before the first block, so nothing was yielded yet.
                self._ranges = self._second
        yield from self._second.range(name, start, end)

    def stream(self, name: str) -> Iterator[Buffer]:
        return self._first.stream(name)
