"""Boxes from the output of a detector: an EAST-style map of scores and distances, or lists of boxes and scores.

EAST (Zhou et al., "EAST: An Efficient and Accurate Scene Text Detector", 2017) gives, for every fourth pixel, a score
and the distances to the top, right, bottom and left edge of the box around it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.processors.classification import read_labels
from tfs_deploy.gateway.processors.protocol import Array, Arrays, BadAnswer, output_named
from tfs_deploy.gateway.processors.resize import FRAMES, Frame
from tfs_deploy.gateway.processors.tensors import short_float

_Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
# Corners as left, top, right, bottom `[k, 4]`, scores `[k]`, class numbers `[k]`.
_Detections = tuple[Array, Array, Array]
_EAST_CHANNELS = ("score", "top", "right", "bottom", "left")


def nms_per_class(
    boxes: Array, scores: Array, classes: Array, *, overlap: float, candidates: int, most: int
) -> npt.NDArray[np.intp]:
    """Return the indexes of the boxes to keep, the best first; boxes of different classes do not suppress each other.

    Only the `candidates` best boxes are compared; boxes with NaN or infinite corners are left out.
    """
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    usable = usable[np.argsort(-scores[usable], kind="stable")[:candidates]]
    chosen = np.zeros(0, dtype=np.intp)
    for number in np.unique(classes[usable]):
        alike = usable[classes[usable] == number]
        chosen = np.concatenate([chosen, alike[nms(boxes[alike], scores[alike], overlap=overlap, most=most)]])
    return chosen[np.argsort(-scores[chosen], kind="stable")][:most]


def nms(boxes: Array, scores: Array, *, overlap: float, most: int) -> npt.NDArray[np.intp]:
    """Return the indexes of the boxes to keep, the best first: at most `most`, no two with more than `overlap`.

    `boxes` is float `[n, 4]` as left, top, right, bottom; the overlap of two is intersection over union.
    """
    # Stable, so that the first of equal scores wins on every machine.
    order = np.argsort(-scores, kind="stable")
    widths = np.maximum(0, boxes[:, 2] - boxes[:, 0])
    heights = np.maximum(0, boxes[:, 3] - boxes[:, 1])
    areas = widths * heights
    chosen: list[int] = []
    while order.size and len(chosen) < most:
        best, rest = int(order[0]), order[1:]
        chosen.append(best)
        shared = _intersection(boxes[best], boxes[rest])
        union = areas[best] + areas[rest] - shared
        # Boxes without area overlap no other box.
        order = rest[shared <= overlap * union]
    return np.array(chosen, dtype=np.intp)


def _intersection(box: Array, others: Array) -> Array:
    """Return the area of the intersection of `box` with each of `others`."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    area: Array = np.maximum(0, width) * np.maximum(0, height)
    return area


class BoxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`layout` ``east``: `output` is `[n, h / stride, w / stride, 5]`, its channels in the order of `channels`.

    ``lists``: `boxes_output` `[n, k, 4]` in the order of `corners`, `scores_output` `[n, k]`, and optionally
    `classes_output` `[n, k]` (indexes into `labels` from `first_class`) and `count_output` `[n]`; `normalized` means
    coordinates from 0 to 1. At most `most` boxes are returned per item, of the `candidates` best ones.
    """

    layout: Literal["east", "lists"] = "east"
    output: str = ""
    stride: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    channels: tuple[str, ...] = _EAST_CHANNELS
    boxes_output: str = "detection_boxes"
    scores_output: str = "detection_scores"
    classes_output: str = ""
    count_output: str = ""
    corners: Literal["top_left_bottom_right", "left_top_right_bottom"] = "top_left_bottom_right"
    normalized: bool = False
    labels: tuple[str, ...] = ()
    labels_file: str = ""
    first_class: int = 0
    threshold: _Fraction = 0.5
    overlap: _Fraction = 0.3
    most: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    candidates: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000


class BoxProcessor:
    """Returns ``{"boxes": [{"left": …, "top": …, "right": …, "bottom": …, "score": …, "label": …}, …]}``.

    After the processor ``images`` the coordinates are pixels of the original picture, and ``width`` and ``height`` are
    added; otherwise they are pixels of the model's input.
    """

    Options = BoxOptions
    reentrant = True
    paths = ("labels_file",)
    heavy = ("postprocess",)

    def __init__(self, options: BoxOptions) -> None:
        if sorted(options.channels) != sorted(_EAST_CHANNELS):
            raise InvalidInput(
                f"The box option channels is {', '.join(options.channels) or 'empty'}.",
                f"Name each of {', '.join(_EAST_CHANNELS)} once, in the order of the model's output.",
            )
        self._options = options
        self._labels = read_labels(options.labels, options.labels_file)

    def postprocess(self, outputs: Arrays) -> list[Any]:
        """Return the boxes of each item, the best first."""
        read = self._east if self._options.layout == "east" else self._lists
        detections = read(outputs)
        frames = outputs.get(FRAMES)
        if frames is None:
            return [self._answer(*row, None) for row in detections]
        if len(frames) != len(detections):
            raise BadAnswer(
                f"The model returned boxes for {len(detections)} items, and {len(frames)} were sent.",
                "Check the model.",
            )
        return [self._answer(*row, Frame(*map(float, frame))) for row, frame in zip(detections, frames, strict=True)]

    def _east(self, outputs: Arrays) -> list[_Detections]:
        maps = output_named(outputs, self._options.output)
        if maps.ndim != 4 or maps.shape[3] != len(_EAST_CHANNELS) or maps.dtype.kind not in "fV":
            raise BadAnswer(
                f"The model answered with {maps.dtype} {list(maps.shape)} where [items, h, w, 5] is expected.",
                "Set the box option output to the map of scores and distances, or use layout: lists.",
            )
        return [self._east_boxes(np.asarray(east_map, dtype=np.float32)) for east_map in maps]

    def _east_boxes(self, east_map: Array) -> _Detections:
        channel = {name: east_map[..., number] for number, name in enumerate(self._options.channels)}
        # NaN scores are never at the threshold.
        rows, columns = np.nonzero(channel["score"] >= self._options.threshold)
        score, top, right, bottom, left = (channel[name][rows, columns] for name in _EAST_CHANNELS)
        x, y = columns * self._options.stride, rows * self._options.stride
        return np.stack([x - left, y - top, x + right, y + bottom], axis=1), score, np.zeros(len(score), dtype=np.int64)

    def _lists(self, outputs: Arrays) -> list[_Detections]:
        options = self._options
        boxes, scores = (output_named(outputs, name) for name in (options.boxes_output, options.scores_output))
        floats = boxes.dtype.kind in "fV" and scores.dtype.kind in "fV"
        if not floats or boxes.ndim != 3 or boxes.shape[2] != 4 or scores.shape != boxes.shape[:2]:
            raise BadAnswer(
                f"The model answered with boxes {boxes.dtype} {list(boxes.shape)} and scores {scores.dtype} "
                f"{list(scores.shape)} where floats [items, k, 4] and [items, k] are expected.",
                "Set the box options boxes_output and scores_output to them.",
            )
        classes = self._optional_output(outputs, options.classes_output, scores.shape, np.zeros(scores.shape))
        counts = self._optional_output(
            outputs, options.count_output, scores.shape[:1], np.full(len(scores), scores.shape[1])
        )
        order = [1, 0, 3, 2] if options.corners == "top_left_bottom_right" else [0, 1, 2, 3]
        detections = []
        for row in range(len(scores)):
            good = scores[row] >= options.threshold
            good[max(0, int(counts[row])) :] = False
            numbers = np.clip(classes[row][good], -1, 1 << 31).astype(np.int64)
            detections.append((boxes[row][good][:, order], scores[row][good], numbers))
        return detections

    def _optional_output(self, outputs: Arrays, name: str, shape: tuple[int, ...], otherwise: Array) -> Array:
        """Return the output `name`, which must have `shape`, or `otherwise` where the options name none."""
        if not name:
            return otherwise
        output = output_named(outputs, name)
        if output.shape != shape or output.dtype.kind not in "fiu" or not np.isfinite(output).all():
            raise BadAnswer(
                f"The output {name!r} of the model is {output.dtype} {list(output.shape)} where numbers "
                f"{list(shape)} are expected.",
                "Correct the box options classes_output and count_output.",
            )
        return output

    def _answer(self, boxes: Array, scores: Array, classes: Array, frame: Frame | None) -> dict[str, Any]:
        options = self._options
        boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
        order = nms_per_class(
            boxes, scores, classes, overlap=options.overlap, candidates=options.candidates, most=options.most
        )
        if frame is not None:
            boxes = _in_original(boxes, frame, normalized=options.normalized and options.layout == "lists")
        answer: dict[str, Any] = {"boxes": [self._box(boxes[i], scores[i], int(classes[i])) for i in order]}
        return answer if frame is None else {**answer, "width": int(frame.width), "height": int(frame.height)}

    def _box(self, corners: Array, score: float, number: int) -> dict[str, Any]:
        sides = zip(("left", "top", "right", "bottom"), map(short_float, corners), strict=True)
        box: dict[str, Any] = {**dict(sides), "score": short_float(score)}
        if self._options.classes_output:
            channel = number - self._options.first_class
            box["label"] = self._labels[channel] if 0 <= channel < len(self._labels) else str(number)
        return box


def _in_original(boxes: Array, frame: Frame, *, normalized: bool) -> Array:
    """Return `boxes` in pixels of the original picture, clipped at its edges."""
    if normalized:
        boxes = boxes * np.tile([frame.sent_width, frame.sent_height], 2)
    moved = boxes - np.tile([frame.offset_x, frame.offset_y], 2)
    original = moved / np.tile([frame.scale_x, frame.scale_y], 2)
    cut: Array = np.clip(original, 0, np.tile([frame.width, frame.height], 2))
    return cut
