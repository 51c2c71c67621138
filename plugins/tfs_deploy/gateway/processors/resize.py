"""Resize pictures: stretched, cropped, or padded with the aspect ratio kept; and the mapping back to the original."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from tfs_deploy.gateway.processors.protocol import AUX_PREFIX

# One row per picture: the fields of `Frame`, for a postprocessor that answers in pixels of the original.
FRAMES = AUX_PREFIX + "frames"

Fit = Literal["stretch", "pad", "crop"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The mapping to the original: original pixel = (pixel - offset) / scale, in x and in y.

    `width` and `height` are those of the upright original, `sent_width` and `sent_height` those of the model's input.
    """

    width: float
    height: float
    sent_width: float
    sent_height: float
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def row(self) -> tuple[float, ...]:
        """Return the fields in their order, as a row of an array."""
        return dataclasses.astuple(self)


def resize_image(
    image: Image.Image,
    size: tuple[int, int],
    *,
    fit: Fit,
    resample: Image.Resampling,
    fill: int | tuple[int, int, int],
    centered: bool = True,
) -> tuple[Image.Image, Frame]:
    """Return `image` in `size` (width, height), and the mapping to the original.

    ``pad`` keeps the whole picture and its aspect ratio, ``crop`` cuts the edges off. Without `centered` the padding is
    at the right and the bottom only, and a small picture is not enlarged.
    """
    width, height = size
    if fit == "stretch":
        scales = width / image.width, height / image.height
        return _resized(image, size, resample), Frame(*image.size, *size, *scales, 0.0, 0.0)
    ratios = width / image.width, height / image.height
    if fit == "crop":
        return _cropped(image, size, max(ratios), resample)
    scale = min(ratios) if centered else min(1.0, *ratios)
    inner = tuple(min(most, max(1, round(side * scale))) for side, most in zip(image.size, size, strict=True))
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if centered else (0, 0)
    canvas = Image.new(image.mode, size, fill)
    canvas.paste(_resized(image, (inner[0], inner[1]), resample), (left, top))
    scales = inner[0] / image.width, inner[1] / image.height
    return canvas, Frame(*image.size, *size, *scales, float(left), float(top))


def multiple_size(size: tuple[int, int], *, multiple: int, max_side: int, fit: Fit) -> tuple[int, int]:
    """Return the size nearest to `size` (width, height) whose sides are multiples and at most `max_side`.

    With ``pad`` each side is rounded up, so that the picture fits inside at the same scale.
    """
    most = max(multiple, max_side // multiple * multiple)
    scale = min(1.0, most / max(size))
    steps = math.ceil if fit == "pad" else round
    # Minus an epsilon, because most / max(size) * max(size) may be just above `most`.
    sides = (steps(side * scale / multiple - 1e-9) * multiple for side in size)
    width, height = (min(most, max(multiple, side)) for side in sides)
    return width, height


def _cropped(
    image: Image.Image, size: tuple[int, int], scale: float, resample: Image.Resampling
) -> tuple[Image.Image, Frame]:
    # Crops before it resizes, so that no picture larger than the result is allocated.
    kept_width, kept_height = size[0] / scale, size[1] / scale
    left, top = (image.width - kept_width) / 2, (image.height - kept_height) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, left + kept_width), min(image.height, top + kept_height))
    part = image.resize(size, resample, box=box)
    return part, Frame(*image.size, *size, scale, scale, -box[0] * scale, -box[1] * scale)


def _resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)
