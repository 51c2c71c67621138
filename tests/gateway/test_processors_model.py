"""Processors and a model server together: items in, and the answer in the words of the items out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fakes import FakeVersion
from gateway.model_servers import Replica, group
from gateway.pictures import file_of
from tfs_deploy.gateway.config import ModelConfig, Pool, ProcessorConfig
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.processors.model_processors import make_model_processors
from tfs_deploy.gateway.processors.protocol import Blob
from tfs_deploy.serving.codec.tensors import to_array
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

Arrays = Mapping[str, Any]
PREDICT = "tensorflow/serving/predict"


def model(function: Callable[[Arrays], Arrays], inputs: Any, outputs: Any) -> FakeVersion:
    """Return a version that computes `function`; inputs and outputs are dtype and shape by name."""
    specs = [{name: TensorSpec(*spec, name) for name, spec in part.items()} for part in (inputs, outputs)]
    return FakeVersion(function, {DEFAULT_SIGNATURE: Signature(specs[0], specs[1], PREDICT)})


def answers(
    version: FakeVersion,
    processor: ProcessorConfig,
    items: Sequence[Any],
    postprocessor: ProcessorConfig | None = None,
    *,
    workers: int = 1,
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the JSON values for `items`, and the inputs of each Predict that reached the model server."""

    async def scenario() -> tuple[list[Any], list[dict[str, Any]]]:
        replica = Replica({1: version})
        models = {"m": ModelConfig(processor=processor, postprocessor=postprocessor)}
        made, pool = make_model_processors(models, Pool(workers=workers))
        deadline = time.monotonic() + 60
        try:
            if pool is not None:
                await pool.start()
            async with group(replica) as upstream:
                found = upstream.signature()
                batches = await made["m"].preprocess(items, deadline=deadline, signature=found and found[1])
                values: list[Any] = []
                for batch in batches:
                    answer = await upstream.predict(batch.inputs, label="stable", deadline=deadline, request_id="r")
                    values += await made["m"].postprocess(batch, answer.outputs, deadline=deadline)
        finally:
            if pool is not None:
                await pool.stop()
        seen = [{name: to_array(proto) for name, proto in request.inputs.items()} for request in replica.predicts]
        return values, seen

    return asyncio.run(scenario())


def find_rectangle(inputs: Arrays) -> Arrays:
    """Answer as EAST does for the white rectangle in a black picture: `[1, h, w, 3]` to `[1, h/4, w/4, 5]`."""
    (picture,) = inputs["images"]
    white = picture[..., 0] > 0.5
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    answer = np.zeros((1, picture.shape[0] // 4, picture.shape[1] // 4, 5), np.float32)
    for y in range(answer.shape[1]):
        for x in range(answer.shape[2]):
            if white[4 * y, 4 * x]:
                sides = (4 * y - rows[0], columns[-1] + 1 - 4 * x, rows[-1] + 1 - 4 * y, 4 * x - columns[0])
                answer[0, y, x] = (0.95, *sides)
    return {"map": answer}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_an_east_model_end_to_end(fit: str) -> None:
    """Pictures of different sizes keep their shapes, each is one Predict, and the boxes are in their own pixels."""
    east = model(
        find_rectangle,
        {"images": ("DT_FLOAT", (1, None, None, 3))},
        {"map": ("DT_FLOAT", (1, None, None, 5))},
    )
    sizes, rectangle = [(320, 200), (130, 333), (1400, 600)], (40, 60, 100, 90)
    items = []
    for size in sizes:
        picture = Image.new("RGB", size)
        ImageDraw.Draw(picture).rectangle((rectangle[0], rectangle[1], rectangle[2] - 1, rectangle[3] - 1), "white")
        items.append(Blob(file_of(picture)))
    values, seen = answers(
        east,
        ProcessorConfig(name="images", options={"max_side": 640, "fit": fit, "scale": 1 / 255}),
        items,
        ProcessorConfig(name="boxes"),
        workers=2,
    )
    shapes = {"stretch": [(192, 320), (320, 128), (288, 640)], "pad": [(224, 320), (352, 160), (288, 640)]}[fit]
    assert [request["images"].shape for request in seen] == [(1, *shape, 3) for shape in shapes]
    assert {request["images"].dtype for request in seen} == {np.dtype(np.float32)}
    for value, size in zip(values, sizes, strict=True):
        assert (value["width"], value["height"]) == size
        (box,) = value["boxes"]
        assert box["score"] == 0.95
        found = [box[side] for side in ("left", "top", "right", "bottom")]
        # What the model saw was smaller, by up to 2.2 times.
        assert np.abs(np.array(found) - rectangle).max() <= 2.5


def test_a_classifier_of_pictures_gets_one_batch() -> None:
    darkness = model(
        lambda arrays: {
            "p": np.stack([arrays["images"].mean(axis=(1, 2, 3)), 1 - arrays["images"].mean(axis=(1, 2, 3))], 1)
        },
        {"images": ("DT_FLOAT", (None, 8, 8, 1))},
        {"p": ("DT_FLOAT", (None, 2))},
    )
    items = [Blob(file_of(Image.new("L", (20 + shade, 9), shade))) for shade in (0, 255, 51)]
    values, seen = answers(
        darkness,
        ProcessorConfig(name="images", options={"size": [8, 8], "mode": "L", "scale": 1 / 255}),
        items,
        ProcessorConfig(name="classification", options={"labels": ["light", "dark"]}),
        workers=2,
    )
    assert [request["images"].shape for request in seen] == [(3, 8, 8, 1)]
    assert [value["label"] for value in values] == ["dark", "light", "dark"]
    assert [value["score"] for value in values] == pytest.approx([1.0, 1.0, 0.8])


def test_texts_in_and_plain_values_out(tmp_path: Path) -> None:
    (tmp_path / "vocabulary").write_text("[PAD]\n[UNK]\ngood\nbad\n")
    length = model(
        lambda arrays: {"n": (arrays["ids"] != 0).sum(axis=1)},
        {"ids": ("DT_INT64", (None, 6))},
        {"n": ("DT_INT64", (None,))},
    )
    options = {"input": "ids", "vocabulary": str(tmp_path / "vocabulary"), "max_length": 6}
    values, seen = answers(length, ProcessorConfig(name="text", options=options), ["good bad ugly", ""])
    assert values == [3, 0]
    assert seen[0]["ids"].tolist() == [[2, 3, 1, 0, 0, 0], [0] * 6]


def test_plain_tensors_go_by_the_signature_of_the_version_that_answers() -> None:
    add = model(
        lambda arrays: {"sum": arrays["a"] + arrays["b"][:, np.newaxis]},
        {"a": ("DT_INT32", (None, 2)), "b": ("DT_INT32", (None,))},
        {"sum": ("DT_INT32", (None, 2))},
    )
    values, seen = answers(add, ProcessorConfig(name="tensors"), [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}])
    assert values == [[4, 5], [10, 11]]
    assert seen[0]["a"].dtype == np.int32
    for item, said in (({"a": [1.5, 2], "b": 3}, "fraction"), ({"a": [1], "b": 3}, "shape"), ([1], "not an object")):
        with pytest.raises(Problem, match=said) as caught:
            answers(add, ProcessorConfig(name="tensors"), [{"a": [1, 2], "b": 3}, item])
        assert (caught.value.status, caught.value.extra) == (422, {"item": 1})


def test_an_answer_that_the_postprocessor_cannot_read_is_not_the_clients_fault() -> None:
    echo = model(lambda arrays: {"x": arrays["x"]}, {"x": ("DT_FLOAT", (None,))}, {"x": ("DT_FLOAT", (None,))})
    with pytest.raises(Problem, match="where scores") as caught:
        answers(echo, ProcessorConfig(name="tensors"), [1.0], ProcessorConfig(name="classification"))
    assert caught.value.status == 502
    short = model(lambda arrays: {"x": arrays["x"][:1]}, {"x": ("DT_FLOAT", (None,))}, {"x": ("DT_FLOAT", (None,))})
    with pytest.raises(Problem, match="1 values for 2 items") as caught:
        answers(short, ProcessorConfig(name="tensors"), [1.0, 2.0])
    assert caught.value.status == 502
