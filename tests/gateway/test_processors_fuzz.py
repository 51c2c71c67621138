"""Whatever strangers send, a processor gives arrays or BadItem, and whatever models answer, JSON or BadAnswer."""

from __future__ import annotations

import base64
import json
import math
import resource
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.pictures import file_of, gradient
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import BadAnswer, BadItem, Blob
from tfs_deploy.gateway.processors.registry import make_postprocessor, make_processor

Tell = Callable[[str], None]


def fuzz(examples: int) -> settings:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=health)


# Half surrogate pairs too: JSON can spell them.
texts = st.text(st.characters(), max_size=40)
b64 = st.one_of(texts, st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    texts,
    st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    st.builds(lambda text: {"b64": text}, b64),
    st.builds(lambda text: {"url": text}, texts),
    st.builds(Blob, st.binary(max_size=60), texts, texts),
)
items = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(texts, st.sampled_from(["x", "y", "text", "b64", "url"])), inner, max_size=3),
    ),
    max_leaves=12,
)


@cache
def files() -> dict[str, bytes]:
    """Return one good file of every format, and a few of special build."""
    image = gradient(48, 32)
    pages = {"save_all": True, "append_images": [image.rotate(90)]}
    plain = {kind: file_of(image, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM")}
    return {
        **plain,
        "progressive JPEG": file_of(image, "JPEG", progressive=True),
        "animated WebP": file_of(image, "WEBP", **pages),
        "animated GIF": file_of(image, "GIF", **pages),
        "palette PNG": file_of(image.convert("P"), "PNG", transparency=0),
        "grey PNG of 16 bits": file_of(
            image.convert("I;16") if image.mode == "L" else image.convert("L").convert("I;16")
        ),
        "palette BMP": file_of(image.convert("P"), "BMP"),
    }


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """Return a picture with some bytes changed, taken out or put in, most of them near its start."""
    data = bytearray(files()[draw(st.sampled_from(sorted(files())))])
    for _ in range(draw(st.integers(0, 8))):
        address_scope = min(len(data), draw(st.sampled_from([16, 64, 256, 1 << 20])))
        place = draw(st.integers(0, max(0, address_scope - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "drop"]))
        if kind == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        else:
            del data[place : place + draw(st.integers(1, 16))]
    return bytes(data)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Tally:
    """How often what came out, and by how much this process grew meanwhile."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.before = peak()

    def preprocess(self, processor: Any, given: list[Any]) -> None:
        try:
            arrays = processor.preprocess(given)
        except BadItem as error:
            refusal = error
        else:
            assert all(isinstance(array, np.ndarray) and len(array) == len(given) for array in arrays.values())
            self.outcomes["taken"] += 1
            return
        assert 0 <= refusal.index < len(given)
        assert "\n" not in str(refusal)
        assert len(str(refusal).encode()) < 400
        self.outcomes["refused"] += 1

    def told(self, what: str, most_mib: int, tell: Tell) -> None:
        grown = (peak() - self.before) >> 20
        tried = sum(self.outcomes.values())
        tell(f"{what}: {tried} tried, {dict(self.outcomes)}, the process grew by {grown} MiB")
        assert tried >= 100
        assert grown < most_mib


@pytest.mark.parametrize("dtype", ["float32", "uint64", "bool", "string"])
def test_tensors(dtype: str, tell: Tell) -> None:
    tally = Tally()
    processor = make_processor(ProcessorConfig(name="tensors", options={"inputs": {"x": {"dtype": dtype}}}))

    @fuzz(200)
    @given(st.lists(items, min_size=1, max_size=3))
    def run(chosen: list[Any]) -> None:
        tally.preprocess(processor, chosen)

    run()
    tally.told(f"tensors {dtype}", 64, tell)


@pytest.mark.parametrize("tokenize", ["regex", "characters"])
def test_texts(tmp_path: Path, tokenize: str, tell: Tell) -> None:
    tally = Tally()
    (tmp_path / "v").write_text("[PAD]\n[UNK]\na\n")
    options = {"input": "x", "vocabulary": str(tmp_path / "v"), "tokenize": tokenize, "strip_accents": True}
    processor = make_processor(ProcessorConfig(name="text", options=options))

    @fuzz(200)
    @given(st.lists(st.one_of(items, texts), min_size=1, max_size=3))
    def run(chosen: list[Any]) -> None:
        tally.preprocess(processor, chosen)

    run()
    tally.told(f"text {tokenize}", 64, tell)


@pytest.mark.parametrize("options", [{"size": [16, 16], "fit": "pad"}, {"max_side": 256}], ids=["size", "multiples"])
def test_pictures(options: dict[str, Any], tell: Tell) -> None:
    tally = Tally()
    limit = {"max_pixels": 1_000_000}
    processor = make_processor(ProcessorConfig(name="images", options={**options, **limit}))
    starts = st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x20\0\0\0WEBPVP8X"])
    prefixed = st.builds(lambda start, rest: start + rest, starts, st.binary(max_size=200))
    blobs = st.one_of(broken_files(), broken_files(), prefixed, st.binary(max_size=100)).map(Blob)

    @fuzz(500)
    @given(st.one_of(blobs, blobs, blobs, leaves))
    def run(item: Any) -> None:
        tally.preprocess(processor, [item])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about broken EXIF and palettes
        run()
    tally.told(f"images {options}", 96, tell)
    assert tally.outcomes["taken"] > 20
    assert tally.outcomes["refused"] > 20


arrays = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.bool_, np.uint8]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)
likely = st.one_of(
    hnp.arrays(np.float32, st.sampled_from([(1, 4), (2, 3), (2, 1), (2,), (0, 3), (1, 0)])),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4), st.just(5))),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 2), st.integers(0, 5), st.just(4))),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 2), st.integers(0, 5))),
    st.lists(st.binary(max_size=5), max_size=3).map(lambda values: np.array([*values, None], object)[:-1]),
)


@st.composite
def detections(draw: st.DrawFn) -> dict[str, Any]:
    """Return boxes and scores that belong together, or an EAST map."""
    rows, count = draw(st.integers(0, 2)), draw(st.integers(0, 5))
    floats = st.floats(width=32) if draw(st.booleans()) else st.floats(0, 1, width=32)
    boxes = draw(hnp.arrays(np.float32, (rows, count, 4), elements=floats))
    if draw(st.booleans()):
        shape = (rows, draw(st.integers(0, 4)), draw(st.integers(0, 4)), 5)
        return {"map": draw(hnp.arrays(np.float32, shape))}
    return {"a": boxes, "b": draw(hnp.arrays(np.float32, (rows, count), elements=st.floats(0, 1, width=32)))}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tensors", {"inputs": {"x": {"dtype": "int8"}}}),
        ("classification", {"top": 3}),
        ("classification", {"activation": "softmax", "threshold": 0.1}),
        ("classification", {"activation": "sigmoid", "binary": True}),
        ("boxes", {"threshold": 0.0, "most": 5}),
        (
            "boxes",
            {"layout": "lists", "boxes_output": "a", "scores_output": "b", "classes_output": "b", "threshold": 0.0},
        ),
    ],
)
def test_answers(name: str, options: dict[str, Any], tell: Tell) -> None:
    tally = Tally()
    named = st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(arrays, likely, likely), max_size=2)
    processor = make_postprocessor(ProcessorConfig(name=name, options=options))

    @fuzz(200)
    @given(st.one_of(named, named, detections()))
    def run(outputs: dict[str, Any]) -> None:
        try:
            rows = processor.postprocess(outputs)
        except BadAnswer:
            tally.outcomes["refused"] += 1
            return
        json.dumps(rows, allow_nan=False)
        tally.outcomes["taken"] += 1

    run()
    tally.told(f"{name} {options}", 64, tell)
    assert tally.outcomes["taken"]


def test_floats_come_back_as_they_went() -> None:
    processor = make_processor(ProcessorConfig(name="tensors", options={"inputs": {"x": {"dtype": "float64"}}}))

    @fuzz(200)
    @given(st.lists(st.floats(), max_size=5))
    def run(values: list[float]) -> None:
        (sent,) = processor.postprocess(processor.preprocess([values]))
        again = json.loads(json.dumps(sent, allow_nan=False))
        (back,) = processor.preprocess([again])["x"].tolist()
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, back, strict=True))

    run()
