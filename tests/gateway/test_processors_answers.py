"""What models answer, for people: labels with scores, and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.pictures import file_of, gradient
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.boxes import nms
from tfs_deploy.gateway.processors.protocol import BadAnswer, Blob
from tfs_deploy.gateway.processors.registry import make_postprocessor, make_processor
from tfs_deploy.gateway.processors.resize import FRAMES


def classification(**options: Any) -> Any:
    return make_postprocessor(ProcessorConfig(name="classification", options=options))


def boxes(**options: Any) -> Any:
    return make_postprocessor(ProcessorConfig(name="boxes", options=options))


def test_the_best_classes_by_their_labels(tmp_path: Path) -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)
    first, second = classification(labels=["a", "b", "c"], top=2).postprocess({"p": scores})
    assert first["label"] == "b"
    assert first["classes"] == [{"label": "b", "index": 1, "score": 0.7}, {"label": "c", "index": 2, "score": 0.2}]
    assert [one["label"] for one in second["classes"]] == ["a", "c"]
    (tmp_path / "labels.txt").write_text("x\ny\nz\n")
    from_file = classification(labels_file=str(tmp_path / "labels.txt"), output="p")
    assert from_file.postprocess({"p": scores, "other": scores})[0]["label"] == "y"
    assert classification().postprocess({"p": scores})[0]["label"] == "1"


def test_a_threshold_may_leave_nothing() -> None:
    answer = classification(threshold=0.5, top=3).postprocess({"p": np.array([[0.1, 0.2], [0.5, 0.4]])})
    assert answer[0] == {"label": None, "score": None, "classes": []}
    assert [one["index"] for one in answer[1]["classes"]] == [0]


def test_logits_and_one_score_for_two_classes() -> None:
    (row,) = classification(activation="softmax", top=2).postprocess({"l": np.array([[1000.0, 999.0]])})
    assert row["score"] == pytest.approx(1 / (1 + np.exp(-1)))
    (row,) = classification(activation="sigmoid").postprocess({"l": np.array([[-1000.0, 0.0]])})
    assert (row["label"], row["score"]) == ("1", 0.5)
    for scores in (np.array([0.75]), np.array([[0.75]])):
        (row,) = classification(binary=True, labels=["no", "yes"], top=2).postprocess({"p": scores})
        assert [(one["label"], one["score"]) for one in row["classes"]] == [("yes", 0.75), ("no", 0.25)]


@pytest.mark.parametrize(
    ("options", "outputs", "said"),
    [
        ({"output": "q"}, {"p": np.zeros((1, 2))}, "no output 'q'; there are: p"),
        ({}, {"p": np.zeros((1, 2)), "q": np.zeros((1, 2))}, "2 outputs where one was expected"),
        ({}, {"p": np.zeros(2)}, "[items, classes]"),
        ({}, {"p": np.zeros((1, 2), np.int64)}, "int64 [1, 2]"),
        ({"binary": True}, {"p": np.zeros((1, 2))}, "[items, 1]"),
        ({"labels": ["a"]}, {"p": np.zeros((1, 2))}, "has 2 classes, but the number of labels is 1"),
        ({}, {"p": np.array([[np.nan, 1.0]])}, "NaN"),
    ],
)
def test_scores_that_do_not_fit_are_the_models_fault(options: Any, outputs: Any, said: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        classification(**options).postprocess(outputs)
    assert said in str(caught.value)


def test_of_overlapping_boxes_the_best_is_kept() -> None:
    corners = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10], [5, 5, 5, 5]], float)
    scores = np.array([0.8, 0.9, 0.5, 0.8, 0.1])
    assert nms(corners, scores, overlap=0.5, most=10).tolist() == [1, 2, 4]
    assert nms(corners, scores, overlap=1.0, most=10).tolist() == [1, 0, 3, 2, 4]
    assert nms(corners, scores, overlap=0.5, most=1).tolist() == [1]
    assert nms(corners[:0], scores[:0], overlap=0.5, most=1).tolist() == []


def intersection_over_union(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def test_suppression_agrees_with_the_definition() -> None:
    """Every box is either kept or overlaps one that was kept and scored at least as much; no two kept ones overlap."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        start = rng.uniform(0, 100, (60, 2))
        corners, scores = np.hstack([start, start + rng.uniform(1, 40, (60, 2))]), rng.uniform(0, 1, 60)
        chosen = nms(corners, scores, overlap=0.3, most=60).tolist()
        for number in range(60):
            over = [i for i in chosen if i != number and intersection_over_union(corners[i], corners[number]) > 0.3]
            assert (number in chosen) == (not [i for i in over if scores[i] >= scores[number]])


def east_map(height: int, width: int, *found: tuple[int, int, float, tuple[float, float, float, float]]) -> Any:
    """Return an EAST answer with `found`: row, column, score and the distances to top, right, bottom and left."""
    answer = np.zeros((1, height // 4, width // 4, 5), np.float32)
    for row, column, score, distances in found:
        answer[0, row, column] = (score, *distances)
    return answer


def test_an_east_map_becomes_boxes() -> None:
    answer = east_map(64, 96, (5, 10, 0.9, (8, 20, 4, 12)), (5, 11, 0.8, (8, 16, 4, 16)), (12, 2, 0.6, (4, 4, 4, 4)))
    (row,) = boxes().postprocess({"out": answer})
    assert row == {
        "boxes": [
            {"left": 28.0, "top": 12.0, "right": 60.0, "bottom": 24.0, "score": 0.9},
            {"left": 4.0, "top": 44.0, "right": 12.0, "bottom": 52.0, "score": 0.6},
        ]
    }
    assert len(boxes(threshold=0.7).postprocess({"out": answer})[0]["boxes"]) == 1
    turned = answer[..., [4, 3, 2, 1, 0]]
    channels = ["left", "bottom", "right", "top", "score"]
    assert boxes(channels=channels).postprocess({"out": turned}) == [row]


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_boxes_are_pixels_of_the_original_picture(fit: str) -> None:
    """A box around the middle of what the model saw is one around the middle of what the client sent."""
    processor = make_processor(ProcessorConfig(name="images", options={"size": [64, 64], "fit": fit}))
    arrays = processor.preprocess([Blob(file_of(gradient(200, 100)))])
    answer = east_map(64, 64, (8, 8, 0.9, (8, 16, 8, 16)))
    (row,) = boxes().postprocess({"out": answer, FRAMES: arrays[FRAMES]})
    (box,) = row["boxes"]
    assert (row["width"], row["height"]) == (200, 100)
    assert (box["left"], box["right"]) == (50, 150)
    high = 12.5 if fit == "stretch" else 25
    assert (box["top"], box["bottom"]) == (50 - high, 50 + high)


def test_boxes_end_at_the_edges_of_the_picture() -> None:
    processor = make_processor(ProcessorConfig(name="images", options={"size": [64, 64]}))
    arrays = processor.preprocess([Blob(file_of(gradient(64, 64)))])
    (row,) = boxes().postprocess({"out": east_map(64, 64, (0, 0, 0.9, (9, 900, 900, 9))), FRAMES: arrays[FRAMES]})
    assert [row["boxes"][0][side] for side in ("left", "top", "right", "bottom")] == [0, 0, 64, 64]


def test_what_is_no_number_is_no_box() -> None:
    answer = east_map(
        32, 32, (1, 1, np.nan, (1, 1, 1, 1)), (2, 2, 0.9, (np.nan, 1, 1, 1)), (3, 3, 0.9, (1, np.inf, 1, 1))
    )
    rows = boxes().postprocess({"out": answer})
    assert rows == [{"boxes": []}]


def lists(**changes: Any) -> dict[str, Any]:
    outputs = {
        "detection_boxes": np.array([[[0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]], np.float32),
        "detection_scores": np.array([[0.9, 0.8, 0.7]], np.float32),
        "detection_classes": np.array([[1, 2, 1]], np.float32),
        "num_detections": np.array([2], np.float32),
    }
    return {**outputs, **changes}


def test_lists_of_boxes_with_classes() -> None:
    options = {
        "layout": "lists",
        "classes_output": "detection_classes",
        "count_output": "num_detections",
        "labels": ["cat", "dog"],
        "first_class": 1,
        "normalized": True,
    }
    (row,) = boxes(**options).postprocess(lists())
    assert [(box["label"], box["score"]) for box in row["boxes"]] == [("cat", 0.9), ("dog", 0.8)]
    assert row["boxes"][0]["left"] == pytest.approx(0.2)
    assert row["boxes"][0]["bottom"] == pytest.approx(0.5)
    processor = make_processor(ProcessorConfig(name="images", options={"size": [64, 64]}))
    frames = processor.preprocess([Blob(file_of(gradient(200, 100)))])[FRAMES]
    (row,) = boxes(**options).postprocess({**lists(), FRAMES: frames})
    assert [row["boxes"][0][side] for side in ("left", "top", "right", "bottom")] == pytest.approx([40, 10, 120, 50])
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "outputs", "said"),
    [
        ({}, {"out": np.zeros((1, 4, 4, 6), np.float32)}, "[items, h, w, 5]"),
        ({}, {"out": np.zeros((1, 4, 4, 5), np.int32)}, "int32"),
        ({}, {"out": np.zeros((2, 4, 4, 5)), FRAMES: np.zeros((1, 8))}, "returned boxes for 2 items"),
        ({"layout": "lists"}, lists(detection_scores=np.zeros((1, 4))), "[items, k]"),
        ({"layout": "lists"}, lists(detection_boxes=np.full((1, 3, 4), b"x", object)), "boxes object"),
        ({"layout": "lists", "classes_output": "x"}, lists(), "no output 'x'"),
        ({"layout": "lists", "count_output": "c"}, lists(c=np.array([np.nan])), "'c'"),
    ],
)
def test_answers_that_do_not_fit_are_the_models_fault(options: Any, outputs: Any, said: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        boxes(**options).postprocess(outputs)
    assert said in str(caught.value)


def test_options_that_do_not_fit_are_named() -> None:
    for options, said in (
        ({"channels": ["score", "top", "top", "left", "right"]}, "channels"),
        ({"threshold": 1.5}, "threshold"),
        ({"labels": ["a"], "labels_file": "b"}, "Both labels and labels_file"),
        ({"labels_file": "no/such"}, "no/such"),
    ):
        with pytest.raises(InvalidInput, match=said):
            boxes(**options)
    with pytest.raises(InvalidInput, match="top is 0"):
        classification(top=0)
