"""Pictures to arrays: decode within limits, apply the EXIF orientation, resize, normalise."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadItem, bytes_of
from tfs_deploy.gateway.processors.resize import FRAMES, Fit, Frame, multiple_size, resize_image
from tfs_deploy.gateway.processors.tensors import parse_dtype, rows_as_json

Mode = Literal["RGB", "L"]
Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Pillow warns above about this number of pixels (`Image.MAX_IMAGE_PIXELS`) and refuses twice as many. The warning is
# not filtered, because warning filters are not thread-safe; it appears once.
MAX_PIXELS = 89_000_000

_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4
# The operation that turns a picture with this EXIF orientation upright.
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
_Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Numbers = float | tuple[float, ...]


def decode(
    index: int,
    data: bytes,
    *,
    mode: Mode,
    formats: Collection[str],
    max_pixels: int,
    background: tuple[int, int, int],
) -> Image.Image:
    """Return the picture (the first frame of an animation) in `data`, upright, with transparency over `background`.

    Size and format are read from the header and checked before anything is decoded. Raise BadItem.
    """
    if not data:
        raise BadItem(index, "is empty")
    with _opened(index, data, formats, max_pixels) as image:
        try:
            image.load()
            turned = _upright(image)
            return _in_mode(turned, mode, background)
        except Exception as error:  # Pillow's decoders raise many kinds of exceptions
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
        # Pillow decodes run lengths byte by byte in Python, which takes seconds for a few megabytes.
        raise BadItem(index, "is a BMP file with run-length compression", "Save it as PNG.")
    return image


def _check_canvas(index: int, data: bytes, max_pixels: int) -> None:
    """Refuse a large WebP before Pillow opens it, because that allocates its canvas (RFC 9649, 2.7)."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < _WEBP_HEADER_BYTES:
        return
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    if width * height > max_pixels:
        raise _too_large(index, f"{width} x {height}", max_pixels)


def _too_large(index: int, size: str, max_pixels: int) -> BadItem:
    return BadItem(index, f"has {size} pixels; at most {max_pixels} are allowed", "Send a smaller picture.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF is common; the picture is used as stored
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
    """Return a 16-bit picture with 8 bits; Pillow's conversion would clip every value above 255."""
    values = np.clip(np.asarray(image), 0, 65535)
    grey = Image.fromarray((values // 257).astype(np.uint8))
    clear = image.info.get("transparency")  # one 16-bit value
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))


class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`size` is (height, width), as in TensorFlow; without it each picture keeps its size, rounded to `multiple_of` and
    at most `max_side`, and is a Predict of its own. The model gets ``(pixel * scale - mean) / std`` of pixels 0 to 255;
    `mean` and `std` are one number, or one per channel in the order of the input.
    """

    input: str = "images"
    size: tuple[_Side, _Side] | None = None
    fit: Fit = "stretch"
    multiple_of: _Side = 32
    max_side: _Side = 2048
    mode: Mode = "RGB"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["HWC", "CHW", "HW"] = "HWC"
    # Pillow widens the filter for a smaller size; tf.image.resize does so with antialias=True only.
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fill: tuple[_Byte, _Byte, _Byte] = (0, 0, 0)
    background: tuple[_Byte, _Byte, _Byte] = (255, 255, 255)
    invert: bool = False
    scale: float = 1.0
    mean: _Numbers = 0.0
    std: _Numbers = 1.0
    dtype: str = "float32"
    formats: tuple[Format, ...] = FORMATS
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)] = 32_000_000


class ImageProcessor:
    """One item is a picture: an upload, ``{"url": …}`` or ``{"b64": …}``."""

    Options = ImageOptions
    reentrant = True
    heavy = ("preprocess",)
    takes_blobs = True
    splits = True

    def __init__(self, options: ImageOptions) -> None:
        # Pillow loads its plug-ins here, instead of with the first picture.
        Image.init()
        self.batches = options.size is not None
        self._options = options
        self._dtype = _checked_dtype(options)
        self._mean, self._std = (_per_channel(options, name) for name in ("mean", "std"))
        if not np.all(self._std):
            raise InvalidInput("The image option std is 0.", "Use the value from the training.")
        if options.layout == "HW" and options.mode != "L":
            raise InvalidInput("The image option layout is HW, but mode is RGB.", "Use mode: L, or HWC.")

    def preprocess(self, items: Sequence[Any]) -> dict[str, Array]:
        """Return the pictures `[n, height, width, channels]`, and their frames `[n, 8]`."""
        if not items:
            raise InvalidInput("There are no items.", "Send at least one.")
        pictures, frames = zip(*(self._picture(index, item) for index, item in enumerate(items)), strict=True)
        for index, picture in enumerate(pictures):
            if picture.shape != pictures[0].shape:
                raise BadItem(index, "has another size than item 0", "Send one request each, or set size.")
        rows = np.array([frame.row() for frame in frames], dtype=np.float64)
        return {self._options.input: np.stack(pictures), FRAMES: rows}

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return each row of the outputs as JSON values."""
        return rows_as_json(outputs)

    def _picture(self, index: int, item: Any) -> tuple[Array, Frame]:
        options = self._options
        image = decode(
            index,
            bytes_of(index, item),
            mode=options.mode,
            formats=options.formats,
            max_pixels=options.max_pixels,
            background=options.background,
        )
        resized, frame = self._resize(image)
        return self._values(resized), frame

    def _resize(self, image: Image.Image) -> tuple[Image.Image, Frame]:
        options = self._options
        resample = Image.Resampling[options.resample.upper()]
        fill = _grey(options.fill) if options.mode == "L" else options.fill
        if options.size is not None:
            return resize_image(image, options.size[::-1], fit=options.fit, resample=resample, fill=fill)
        size = multiple_size(image.size, multiple=options.multiple_of, max_side=options.max_side, fit=options.fit)
        # Not centered: padding at the right and the bottom moves no pixel.
        return resize_image(image, size, fit=options.fit, resample=resample, fill=fill, centered=False)

    def _values(self, image: Image.Image) -> Array:
        options = self._options
        pixels: Array = np.asarray(image)
        if options.channel_order == "BGR" and options.mode == "RGB":
            pixels = pixels[..., ::-1]
        if options.mode == "L" and options.layout != "HW":
            pixels = pixels[..., np.newaxis]
        if options.invert:
            pixels = 255 - pixels
        if self._dtype.kind not in "iu":
            # In place, because each step would copy a float32 picture of four times the bytes.
            values = pixels.astype(np.float32)
            values *= np.float32(options.scale)
            values -= self._mean
            values /= self._std
            pixels = values
        values = pixels.astype(self._dtype, copy=False)
        return values.transpose(2, 0, 1) if options.layout == "CHW" else values


def _checked_dtype(options: ImageOptions) -> np.dtype[Any]:
    dtype = parse_dtype(options.dtype)
    if dtype.kind in "Ob" or dtype == np.int8:
        raise InvalidInput(f"Pictures cannot be sent as {options.dtype}.", "Use float32, uint8 or a wider integer.")
    if dtype.kind in "iu" and (options.scale != 1 or np.any(options.mean) or np.any(np.asarray(options.std) != 1)):
        raise InvalidInput(
            f"The image options scale, mean and std would give fractions, and dtype is {options.dtype}.",
            "Use dtype: float32, or leave them out.",
        )
    return dtype


def _per_channel(options: ImageOptions, name: str) -> Array:
    values = np.asarray(getattr(options, name), dtype=np.float32)
    channels = 1 if options.mode == "L" else 3
    if values.shape not in ((), (1,), (channels,)):
        raise InvalidInput(
            f"The image option {name} has {values.size} numbers for {channels} channels.", "Give one, or one each."
        )
    return values


def _grey(colour: tuple[int, int, int]) -> int:
    """Return the brightness of `colour`, by the weights of Pillow's own conversion (ITU-R 601-2)."""
    red, green, blue = colour
    return (red * 299 + green * 587 + blue * 114) // 1000
