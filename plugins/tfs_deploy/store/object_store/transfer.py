"""What moves the bytes of files: the protocol that boto3 and obstore stand behind, and the sizes of pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

# S3 takes parts from 5 MiB up, at most 10,000 of them (Amazon S3 user guide, "Multipart upload limits").
PART_BYTES = 8 << 20
_MOST_PARTS = 9_000
# Parts of one large file on the way up at once; with PART_BYTES that bounds the memory.
PARTS_AT_ONCE = 4

Buffer: TypeAlias = "bytes | memoryview"


class Transfer(Protocol):
    """Moves whole objects and pieces of them; raises our errors, MissingObject for an object that is not there."""

    def put(self, name: str, body: Buffer, *, sha256: str) -> None:
        """Write an object; the store compares the digest (hex) where it can."""

    def put_parts(self, name: str, parts: Iterator[memoryview], *, sha256: str, part_bytes: int) -> None:
        """Write an object from its parts, all of `part_bytes` but the last; nothing is visible before the end."""

    def get(self, name: str, *, size: int) -> Buffer:
        """Return a whole object that should have `size` bytes; raise MissingObject, unread, if it has more."""

    def range(self, name: str, start: int, end: int) -> Iterator[Buffer]:
        """Yield the bytes from `start` to before `end`.

        Raises NoPieces, before the first block, if the server gives no pieces; Interrupted if it ends too early.
        A block may be overwritten by the next one.
        """

    def stream(self, name: str) -> Iterator[Buffer]:
        """Yield the bytes of a whole object in order; for servers that give no pieces."""


def part_bytes_for(size: int) -> int:
    """Return how large the parts of a file of `size` bytes are to be, a multiple of 1 MiB."""
    least = -(-size // _MOST_PARTS)
    return max(PART_BYTES, -(-least // (1 << 20)) << 20)
