"""Decode a picture that a stranger sent: refuse by its header what would cost too much, and turn it upright."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from tfs_deploy.gateway.processors.protocol import BadItem

Mode = Literal["RGB", "L"]
Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Pillow itself warns above about this number of pixels (`Image.MAX_IMAGE_PIXELS`) and refuses above twice as many.
# The warning is left alone, since filters for warnings are not safe between threads; it is given once.
MOST_PIXELS = 89_000_000

_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4
# What brings a picture that was stored with this orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WEBP_HEADER_BYTES = 30


def decode(
    index: int,
    data: bytes,
    *,
    mode: Mode,
    formats: Collection[str],
    max_pixels: int,
    background: tuple[int, int, int],
) -> Image.Image:
    """Return the picture (the first one of an animation) in `data`, upright, transparency laid over `background`.

    Size and format are read from the header; nothing is decoded before both are found good. Raise BadItem.
    """
    if not data:
        raise BadItem(index, "is empty")
    with _opened(index, data, formats, max_pixels) as image:
        try:
            image.load()
            turned = _upright(image)
            return _in_mode(turned, mode, background)
        except Exception as error:  # Pillow's decoders raise whatever their parser trips over
            raise BadItem(
                index, f"is a {image.format} file that is damaged or cut short", "Send the whole file."
            ) from error


def _opened(index: int, data: bytes, formats: Collection[str], max_pixels: int) -> Image.Image:
    _check_canvas(index, data, max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(index, "too many", max_pixels) from error
    except UnidentifiedImageError as error:
        raise BadItem(index, f"is not an image in one of the formats {', '.join(formats)}") from error
    except Exception as error:  # see decode()
        raise BadItem(index, "is not a readable image", "Send the whole file.") from error
    if image.width * image.height > max_pixels:
        raise _too_large(index, f"{image.width} x {image.height}", max_pixels)
    if image.format == "BMP" and image.info.get("compression") not in (None, 0, 3):
        # Pillow reads run lengths byte by byte in Python: seconds for a file of a few megabytes.
        raise BadItem(index, "is a BMP file with run-length compression", "Save it as PNG.")
    return image


def _check_canvas(index: int, data: bytes, max_pixels: int) -> None:
    """Refuse a large WebP before Pillow opens it, because opening one allocates its canvas (RFC 9649, 2.7)."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < _WEBP_HEADER_BYTES:
        return
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    if width * height > max_pixels:
        raise _too_large(index, f"{width} x {height}", max_pixels)


def _too_large(index: int, size: str, max_pixels: int) -> BadItem:
    return BadItem(index, f"has {size} pixels; at most {max_pixels} are taken", "Send it smaller.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF is common and harms nothing: the picture is taken as it is stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _in_mode(image: Image.Image, mode: Mode, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, background)
        image.paste(layer, mask=layer.getchannel("A"))
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits per pixel with 8; Pillow's own conversion would cut every brighter one off at 255."""
    values = np.clip(np.asarray(image), 0, 65535)
    grey = Image.fromarray((values // 257).astype(np.uint8))
    clear = image.info.get("transparency")  # one brightness, of all 16 bits
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
