"""The whole way with TensorFlow: pictures over HTTP, through the gateway, to models in the embedded model server."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedded_server import RPC_DRIVEN_FLAGS, EmbeddedServer
from gateway.gateways import Got, Running, form, gateway, is_problem
from gateway.waiting import until
from tfs_deploy.clock import SystemClock
from tfs_deploy.demo import digits
from tfs_deploy.gateway.capture.golden import make_golden
from tfs_deploy.savedmodel.export.exporter import export
from tfs_deploy.savedmodel.requests import parse_golden
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind
from tfs_deploy.serving.client import connect
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.replies import VersionState

# The first one trains and exports as well.
pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(600)]

ROWS = (5, 8, 2, 9, 23)
MODELS: dict[str, dict[str, Any]] = {
    "digits": {
        "processor": {
            "name": "images",
            "options": {"input": "images", "size": [8, 8], "mode": "L", "scale": 16 / 255},
        },
        "postprocessor": {
            "name": "classification",
            "options": {"output": "probabilities", "labels": list("0123456789"), "top": 3},
        },
        "micro_batching": {"max_rows": 8, "wait_ms": 5},
    },
    # What a careless client may send: nothing but the guard knows the shape.
    "digits_raw": {
        "model": "digits",
        "processor": {"name": "tensors", "options": {"inputs": {"images": {"dtype": "float32"}}}},
    },
    "digits_newest": {
        "model": "digits",
        "mode": "latest",
        "processor": {"name": "tensors", "options": {"outputs": ["digit"]}},
    },
    "east": {
        "processor": {"name": "images", "options": {"input": "images", "multiple_of": 32, "scale": 1 / 255}},
        "postprocessor": {"name": "boxes", "options": {"output": "maps", "threshold": 0.9}},
    },
    "east_maps": {
        "model": "east",
        "processor": {"name": "tensors", "options": {"batches": False, "outputs": ["maps"]}},
    },
}


@dataclass
class Serving:
    """A model server, as the gateways of these tests know it; `models` is where their versions are."""

    server: EmbeddedServer
    models: Path

    @property
    def target(self) -> str:
        return self.server.target

    async def start(self) -> None:
        """Run already."""

    async def stop(self) -> None:
        """Run on: the next test has it too."""

    def reload(self, stable: int, versions: tuple[int, ...]) -> None:
        """Have `versions` of digits, `stable` among them, and the detector."""
        entries = [
            ModelEntry("digits", str(self.models / "digits"), versions, {}),
            ModelEntry("east", str(self.models / "east"), (1,), {}),
        ]
        labelled = [
            ModelEntry("digits", str(self.models / "digits"), versions, {"stable": stable}),
            ModelEntry("east", str(self.models / "east"), (1,), {"stable": 1}),
        ]
        with connect(self.target) as client:
            for config in (entries, labelled):
                client.reload(to_proto(config), timeout=60.0)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    work = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("east_model.py")
    # Beside the training: each of the two spends most of its time on importing TensorFlow.
    detector = subprocess.Popen([sys.executable, str(script), str(work / "east" / "1")])
    trained = digits.train(work / "train", examples=600, epochs=4)
    source = CheckpointSource(SourceKind.KERAS, trained["checkpoint"])
    options = ExportOptions(postprocess=digits.POSTPROCESS, samples=trained["samples"])
    export(source, work / "exported", options, clock=SystemClock(), timeout=240.0)
    for version in (1, 2):
        shutil.copytree(work / "exported", work / "digits" / str(version))
    assert detector.wait(240) == 0
    with EmbeddedServer(RPC_DRIVEN_FLAGS) as server:
        made = Serving(server, work)
        made.reload(1, (1,))
        yield made


def asked(serving: Serving, ask: Callable[[Running], Awaitable[None]]) -> None:
    async def whole() -> None:
        pool = {"workers": 1, "timeout_seconds": 60.0}
        async with gateway(serving, models=MODELS, pool=pool) as g:  # type: ignore[arg-type]
            await until(g.ready)
            await ask(g)

    asyncio.run(whole())


def png(pixels: np.ndarray) -> bytes:
    """Return uint8 `[h, w]` or `[h, w, 3]` as a PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def digit_png(image: np.ndarray) -> bytes:
    return png(np.round(image[:, :, 0] * 255 / 16).astype(np.uint8))


def test_pictures_of_digits_are_read(serving: Serving) -> None:
    images = digits.held_out()[0][list(ROWS)]
    with connect(serving.target) as client:
        direct = client.predict("digits", {"images": images}, label="stable", timeout=60.0).outputs
    expected = [str(digit) for digit in direct["digit"]]

    async def ask(g: Running) -> None:
        body, kind = form(*[("items", f"{row}.png", digit_png(image)) for row, image in zip(ROWS, images, strict=True)])
        uploaded = await g.predict(body, "digits", Content_Type=kind)
        assert uploaded.status == 200, uploaded.json
        assert (uploaded.headers["X-Model-Version"], uploaded.headers["X-Model-Label"]) == ("1", "stable")
        assert [result["label"] for result in uploaded.json["results"]] == expected
        scores = [result["score"] for result in uploaded.json["results"]]
        np.testing.assert_allclose(scores, direct["probabilities"].max(axis=1), atol=0.02)
        # One by one at the same time, as JSON: they may travel as one Predict, and nobody gets another's answer.
        items = [{"b64": base64.b64encode(digit_png(image)).decode()} for image in images]
        single: list[Got] = await asyncio.gather(*(g.predict({"item": item}, "digits") for item in items))
        assert [got.json["result"]["label"] for got in single] == expected

    asked(serving, ask)


def test_maps_of_a_detector_keep_their_shape(serving: Serving) -> None:
    pictures = [np.random.default_rng(size).random((size, 64, 3), np.float32) for size in (32, 64)]

    async def ask(g: Running) -> None:
        got = await g.predict({"items": [picture.tolist() for picture in pictures]}, "east_maps")
        assert got.status == 200, got.json
        with connect(serving.target) as client:
            for picture, result in zip(pictures, got.json["results"], strict=True):
                maps = np.array(result, np.float32)
                assert maps.shape == (picture.shape[0] // 4, 16, 5)
                direct = client.predict("east", {"images": picture[None]}, label="stable", timeout=60.0)
                assert direct.outputs["maps"].shape == (1, *maps.shape)
                np.testing.assert_array_equal(direct.outputs["maps"][0], maps)

    asked(serving, ask)


def test_boxes_are_those_of_the_picture_that_was_sent(serving: Serving) -> None:
    """Pictures of any size in one request: each is one Predict `[1, h, w, 3]`, and pixels are the sender's."""
    sent, expected = [], []
    for height, width, top, left in ((64, 96, 12, 20), (32, 160, 4, 100), (64, 96, 40, 88)):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[top : top + 4, left : left + 4] = 255
        sent.append(("items", "page.png", png(pixels)))
        expected.append((left, top, left + 4, top + 4, width, height))

    async def ask(g: Running) -> None:
        body, kind = form(*sent)
        got = await g.predict(body, "east", Content_Type=kind)
        assert got.status == 200, got.json
        found = []
        for result in got.json["results"]:
            (box,) = result["boxes"]
            assert box["score"] == pytest.approx(1.0, abs=0.01)
            corners = [box[side] for side in ("left", "top", "right", "bottom")]
            found.append((*corners, result["width"], result["height"]))
        assert found == expected

    asked(serving, ask)


@pytest.mark.parametrize("item", [1.0, [1.0] * 7, [[1.0] * 8] * 8, [[[1.0, 2.0]] * 8] * 8, [[[[1.0]] * 8] * 8]])
def test_no_wrong_shape_reaches_the_convolution(serving: Serving, item: Any) -> None:
    async def ask(g: Running) -> None:
        assert is_problem(await g.predict({"item": item}, "digits_raw"), 422)
        good = await g.predict({"item": np.zeros((8, 8, 1)).tolist()}, "digits_raw")
        assert good.status == 200, good.json

    asked(serving, ask)


def test_captured_requests_warm_up_and_judge_the_next_version(serving: Serving, tmp_path: Path) -> None:
    images = digits.held_out()[0][list(ROWS)]
    capture = {"directory": str(tmp_path / "captures"), "percent": 100}

    async def ask() -> None:
        async with gateway(serving, models={"digits_raw": {**MODELS["digits_raw"], "capture": capture}}) as g:  # type: ignore[arg-type]
            await until(g.ready)
            for image in images:
                assert (await g.predict({"item": image.tolist()}, "digits_raw")).status == 200

    asyncio.run(ask())
    made = make_golden([tmp_path / "captures"], tmp_path / "requests")
    assert (made.model, made.version, made.golden) == ("digits", 1, len(ROWS))
    shutil.copytree(serving.models / "digits" / "1", tmp_path / "3")
    extra = tmp_path / "3" / "assets.extra"
    extra.mkdir(exist_ok=True)
    # A version whose warm-up fails does not load.
    shutil.copy(made.warmup_file, extra / "tf_serving_warmup_requests")
    (tmp_path / "3").rename(serving.models / "digits" / "3")
    serving.reload(1, (1, 3))
    with connect(serving.target) as client:

        async def available() -> bool:
            (row,) = await asyncio.to_thread(client.status, "digits", 3, timeout=60.0) or (None,)
            assert row is None or row.state is not VersionState.END, row
            return row is not None and row.state is VersionState.AVAILABLE

        asyncio.run(until(available))
        for golden in parse_golden(Path(made.golden_file).read_bytes(), where=made.golden_file):
            answer = client.predict("digits", golden.inputs, version=3, timeout=60.0)
            for name, expected in golden.outputs.items():
                np.testing.assert_allclose(answer.outputs[name], expected, rtol=1e-3, atol=1e-5)
    serving.reload(1, (1,))


def test_rollout_is_followed_with_and_without_labels(serving: Serving) -> None:
    item = digits.held_out()[0][5].tolist()

    async def versions(g: Running) -> tuple[int, int]:
        stable = await g.predict({"item": item}, "digits_raw")
        newest = await g.predict({"item": item}, "digits_newest")
        assert (stable.status, newest.status) == (200, 200), (stable.json, newest.json)
        assert ("label" in stable.json, "label" in newest.json) == (True, False)
        return stable.json["version"], newest.json["version"]

    async def ask(g: Running) -> None:
        async def reached(expected: tuple[int, int]) -> None:
            async def there() -> bool:
                return await versions(g) == expected

            await until(there, f"{expected} to answer")

        async def client() -> int:
            """Ask all the time; none of it may fail because of the rollout."""
            asked = 0
            while not finished.is_set():
                await versions(g)
                asked += 1
            return asked

        finished = asyncio.Event()
        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        await reached((1, 1))
        await asyncio.to_thread(serving.reload, 1, (1, 2))
        # The label stays; without labels traffic moves as the version loads.
        await reached((1, 2))
        await asyncio.to_thread(serving.reload, 2, (1, 2))
        await reached((2, 2))
        await asyncio.to_thread(serving.reload, 1, (1,))
        await reached((1, 1))
        finished.set()
        assert min(await asyncio.gather(*clients)) > 0

    asked(serving, ask)
