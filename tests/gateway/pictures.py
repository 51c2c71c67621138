"""Pictures for tests, as files in memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(width: int, height: int) -> Image.Image:
    """Return a picture that differs in every direction: red goes right, green goes down, blue is 40."""
    red = np.linspace(0, 255, width, dtype=np.uint8)[np.newaxis].repeat(height, axis=0)
    green = np.linspace(0, 255, height, dtype=np.uint8)[:, np.newaxis].repeat(width, axis=1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 40)], axis=-1))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return `image` as a file of `kind`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noisy_jpeg(width: int, height: int) -> bytes:
    """Return a photograph's worth of detail, some 0.3 bytes per pixel."""
    coarse = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return file_of(Image.fromarray(coarse).resize((width, height)), "JPEG", quality=85)


def png_of_any_size(width: int, height: int) -> bytes:
    """Return a PNG of one grey whose header says what it likes and whose rows compress to almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compress = zlib.compressobj(9)
    row = b"\0" + bytes(width)
    rows = b"".join(compress.compress(row) for _ in range(height)) + compress.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
