"""Pictures: what comes out of the decoder, and what is refused before it runs."""

from __future__ import annotations

import base64
import resource
import struct
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.pictures import file_of, gradient, png_of_any_size
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import Array, BadItem, Blob
from tfs_deploy.gateway.processors.registry import make_processor
from tfs_deploy.gateway.processors.resize import FRAMES


def images(**options: Any) -> Any:
    return make_processor(ProcessorConfig(name="images", options=options))


def sent(data: bytes, **options: Any) -> Array:
    """Return the one picture that goes to the model."""
    return images(**options).preprocess([Blob(data)])["images"][0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_every_format_gives_the_same_picture(kind: str) -> None:
    image = gradient(32, 16)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    close = {"GIF": 40, "JPEG": 6}.get(kind, 0)
    pixels = sent(file_of(image, kind, **options), size=[16, 32], dtype="uint8")
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels.astype(int) - np.asarray(image).astype(int)).max() <= close


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    """EXIF says how the camera was held; row and column 0 of the stored picture are where its table says."""
    upright = np.asarray(gradient(24, 16))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(sent(data, size=[16, 24], dtype="uint8"), upright)


def test_broken_exif_harms_nothing() -> None:
    data = file_of(gradient(8, 8), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert sent(data, size=[8, 8]).shape == (8, 8, 3)


def test_padding_keeps_the_aspect_and_says_where_the_picture_is() -> None:
    arrays = images(size=[100, 100], fit="pad", fill=[1, 2, 3], dtype="uint8").preprocess(
        [Blob(file_of(gradient(40, 20)))]
    )
    picture, frame = arrays["images"][0], arrays[FRAMES][0]
    assert (picture[:25] == [1, 2, 3]).all()
    assert (picture[75:] == [1, 2, 3]).all()
    assert not (picture[25:75] == [1, 2, 3]).all(axis=-1).any()
    assert frame.tolist() == [40, 20, 100, 100, 2.5, 2.5, 0, 25]


def test_cropping_keeps_the_middle() -> None:
    arrays = images(size=[20, 20], fit="crop", dtype="uint8").preprocess([Blob(file_of(gradient(60, 20)))])
    np.testing.assert_array_equal(arrays["images"][0], np.asarray(gradient(60, 20))[:, 20:40])
    assert arrays[FRAMES][0].tolist() == [60, 20, 20, 20, 1, 1, -20, 0]


@pytest.mark.parametrize(
    ("given", "fit", "shape"),
    [
        ((640, 480), "stretch", (480, 640)),
        ((630, 470), "stretch", (480, 640)),
        ((630, 470), "pad", (480, 640)),
        ((641, 481), "pad", (512, 672)),
        ((5, 7), "stretch", (32, 32)),
        ((4000, 100), "stretch", (64, 2048)),
        ((4000, 1), "pad", (32, 2048)),
    ],
)
def test_without_a_size_the_sides_become_multiples(given: tuple[int, int], fit: str, shape: tuple[int, int]) -> None:
    processor = images(multiple_of=32, max_side=2048, fit=fit)
    assert processor.batches is False
    assert processor.preprocess([Blob(file_of(gradient(*given)))])["images"].shape == (1, *shape, 3)


def test_padding_to_multiples_moves_no_pixel() -> None:
    picture = sent(file_of(gradient(40, 20)), fit="pad", multiple_of=32, dtype="uint8")
    np.testing.assert_array_equal(picture[:20, :40], np.asarray(gradient(40, 20)))
    assert not picture[20:].any()
    assert not picture[:, 40:].any()


def test_normalisation_order_of_channels_and_layout() -> None:
    data, pixels = file_of(gradient(8, 4)), np.asarray(gradient(8, 4)).astype(np.float32)
    options = {"size": [4, 8], "scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}
    wanted = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(sent(data, **options), wanted, atol=1e-6)
    swapped = (pixels[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(sent(data, channel_order="BGR", **options), swapped, atol=1e-6)
    first = sent(data, layout="CHW", **options)
    np.testing.assert_allclose(first, wanted.transpose(2, 0, 1), atol=1e-6)
    assert first.dtype == np.float32


def test_a_digit_as_the_demo_model_wants_it() -> None:
    digit = Image.new("L", (8, 8), 255)
    digit.putpixel((3, 5), 0)
    pixels = sent(file_of(digit), size=[8, 8], mode="L", invert=True, scale=16 / 255)
    assert pixels.shape == (8, 8, 1)
    assert pixels[5, 3, 0] == pytest.approx(16)
    assert pixels.sum() == pytest.approx(16)
    assert sent(file_of(digit), size=[8, 8], mode="L", layout="HW").shape == (8, 8)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_transparent_brightness_of_16_bits_lies_over_the_background(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # 32768 and 32769 are the same grey in 8 bits; one of them is no colour.
    stored = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    other = Image.fromarray(np.full((4, 4), 32769, np.uint16))
    options = {"size": [4, 4], "mode": "L", "dtype": "uint8"}
    assert (sent(file_of(stored, transparency=32768, exif=exif), **options) == 255).all()
    assert (sent(file_of(other, transparency=32768, exif=exif), **options) == 127).all()


def test_transparency_lies_over_the_background() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (sent(file_of(clear), size=[4, 4], dtype="uint8", background=[9, 8, 7]) == [9, 8, 7]).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0])
    assert (sent(file_of(palette, transparency=0), size=[4, 4], dtype="uint8") == 255).all()


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    pixels = sent(file_of(Image.fromarray(values)), size=[1, 4], mode="L", layout="HW", dtype="uint8")
    assert pixels.tolist() == [[0, 1, 128, 255]]


def test_other_colour_spaces_and_the_first_picture_of_an_animation() -> None:
    assert sent(file_of(Image.new("CMYK", (4, 4)), "JPEG"), size=[4, 4]).shape == (4, 4, 3)
    pages = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(pages[0], "GIF", save_all=True, append_images=pages[1:])
    assert (sent(data, size=[4, 4], dtype="uint8") == [255, 0, 0]).all()


def test_bytes_come_as_blob_or_base64() -> None:
    data = file_of(gradient(4, 4))
    for text in (base64.b64encode(data), base64.urlsafe_b64encode(data).rstrip(b"="), base64.encodebytes(data)):
        given = images(size=[4, 4]).preprocess([{"b64": text.decode()}])["images"]
        np.testing.assert_array_equal(given[0], sent(data, size=[4, 4]))


def bad(item: Any, **options: Any) -> BadItem:
    with pytest.raises(BadItem) as caught:
        images(size=[8, 8], **options).preprocess([Blob(file_of(gradient(8, 8))), item])
    assert caught.value.index == 1
    assert str(caught.value).startswith("Item 1 ")
    return caught.value


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (Blob(b""), "is empty"),
        (Blob(b"hello, world"), "is not an image"),
        (Blob(b"%PDF-1.7\n"), "is not an image"),
        (Blob(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is not an image"),
        (Blob(b"\x89PNG\r\n\x1a\n" + b"\xff" * 100), "not a"),
        ({"b64": "%%%"}, "cannot be decoded"),
        ({"b64": 5}, "a whole number"),
        ({"url": "http://example.com/"}, "is a URL"),
        ("text", "is a string"),
        (None, "is null"),
        ([1, 2], "is a list"),
    ],
)
def test_what_is_no_picture_is_one_sentence(item: Any, said: str) -> None:
    assert said in bad(item).reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    data = file_of(gradient(64, 64), kind)
    assert "damaged or cut short" in bad(Blob(data[: len(data) * 2 // 3])).reason or kind == "WEBP"
    bad(Blob(data[:20]))


def test_a_format_that_is_not_allowed_is_refused() -> None:
    assert "formats JPEG" in bad(Blob(file_of(gradient(8, 8), "GIF")), formats=["JPEG", "PNG"]).reason
    assert "not an image" in bad(Blob(file_of(gradient(8, 8), "TIFF"))).reason


def memory_of(work: Any) -> tuple[int, float]:
    """Return by how many bytes the peak of this process grew, and the seconds that `work` took."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, seconds


def large_webp() -> bytes:
    """Return an animated WebP whose canvas is 16383 x 16383 pixels and whose one frame is small."""
    pages = [gradient(16, 16), gradient(16, 16).rotate(90)]
    data = bytearray(file_of(pages[0], "WEBP", save_all=True, append_images=pages[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = struct.pack("<I", 16382)[:3] * 2
    return bytes(data)


BOMBS = {
    "100 megapixels": lambda: png_of_any_size(10_000, 10_000),
    "200 megapixels, past Pillow's own limit": lambda: png_of_any_size(14_000, 14_000),
    "a WebP canvas": large_webp,
    "a GIF screen": lambda: b"GIF89a\xff\xff\xff\xff" + file_of(gradient(4, 4), "GIF")[10:],
    "a BMP header": lambda: (
        (data := file_of(gradient(4, 4), "BMP"))[:18] + struct.pack("<ii", 30_000, 30_000) + data[26:]
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_is_too_large_costs_nothing(name: str) -> None:
    data = BOMBS[name]()
    bad(Blob(data))  # what Pillow imports and allocates once
    grown, seconds = memory_of(lambda: [bad(Blob(data)) for _ in range(20)])
    assert "pixels; at most 32000000" in bad(Blob(data)).reason
    print(f"{name}: {len(data)} bytes, 20 refusals in {seconds * 1000:.1f} ms, peak grew by {grown} bytes")
    assert seconds < 20  # each of them decoded would take seconds, and gibibytes
    assert grown < 16 << 20


def test_run_lengths_in_a_bmp_are_refused() -> None:
    data = bytearray(file_of(Image.new("P", (64, 64)), "BMP"))
    data[30:34] = struct.pack("<I", 1)
    assert "run-length" in bad(Blob(bytes(data))).reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sise": [8, 8]}, "sise"),
        ({"size": [0, 8]}, "size"),
        ({"size": [8, 8], "fit": "squeeze"}, "fit"),
        ({"size": [8, 8], "std": 0}, "std is 0"),
        ({"size": [8, 8], "mean": [1, 2]}, "mean has 2 numbers for 3 channels"),
        ({"size": [8, 8], "dtype": "uint8", "scale": 0.5}, "would give fractions"),
        ({"size": [8, 8], "dtype": "string"}, "cannot be sent as string"),
        ({"size": [8, 8], "dtype": "float31"}, "float31"),
        ({"size": [8, 8], "layout": "HW"}, "layout is HW"),
        ({"formats": ["TIFF"]}, "formats"),
        ({"max_pixels": 10**9}, "max_pixels"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match="'images'") as caught:
        images(**options)
    assert said in str(caught.value)
