"""TFRecord files without TensorFlow: length, masked CRC32C of the length, data, masked CRC32C of the data.

The format is TensorFlow's (``core/lib/io/record_writer.h``): little-endian uint64 length, uint32 checksums, and a
checksum is masked as ``rotate_right(crc, 15) + 0xa282ead8``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound

# A Predict request cannot be larger than a protobuf message, 2 GiB; more in a length field is damage.
MAX_RECORD_BYTES = 2**31 - 1
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_REMEDY = "Write the file again from sample requests."


def encode(records: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the framed bytes of each of `records`."""
    for record in records:
        length = len(record).to_bytes(8, "little")
        yield length + _FOOTER.pack(_masked_crc(length)) + record + _FOOTER.pack(_masked_crc(record))


def read_records(path: Path, *, max_record_bytes: int = MAX_RECORD_BYTES) -> Iterator[bytes]:
    """Yield the records of `path`; raise NotFound without it, InvalidInput if it cannot be read.

    Raises CorruptModel with the offset of the first bad record.
    """
    try:
        with path.open("rb") as stream:
            yield from decode(stream, where=str(path), max_record_bytes=max_record_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no file {str(path)!r}.", "Name an existing TFRecord file.") from error
    except OSError as error:
        raise InvalidInput(f"The file {str(path)!r} cannot be read: {error.strerror}.", "Check the path.") from error


def decode(stream: BinaryIO, *, where: str, max_record_bytes: int = MAX_RECORD_BYTES) -> Iterator[bytes]:
    """Yield the records of `stream`; `where` names it in errors."""
    offset = 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _corrupt(where, offset, "is cut off")
        length, length_crc = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != length_crc:
            raise _corrupt(where, offset, "has a length with a wrong checksum")
        if length > max_record_bytes:
            raise _corrupt(where, offset, f"has {length} bytes, and at most {max_record_bytes} are allowed")
        data, footer = stream.read(length), stream.read(_FOOTER.size)
        if len(data) < length or len(footer) < _FOOTER.size:
            raise _corrupt(where, offset, "is cut off")
        if _masked_crc(data) != _FOOTER.unpack(footer)[0]:
            raise _corrupt(where, offset, "has data with a wrong checksum")
        yield data
        offset += _HEADER.size + length + _FOOTER.size


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _corrupt(where: str, offset: int, problem: str) -> CorruptModel:
    return CorruptModel(f"The record at byte {offset} of {where!r} {problem}.", _REMEDY)
