"""Non-maximum suppression: of boxes that cover the same thing, keep the one with the highest score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfs_deploy.gateway.processors.protocol import Array


def best_boxes(
    boxes: Array, scores: Array, classes: Array, *, overlap: float, candidates: int, most: int
) -> npt.NDArray[np.intp]:
    """Return the numbers of the boxes to keep, the best first; boxes of different classes do not suppress each other.

    Looked at are the `candidates` best ones; boxes with a corner that is no number are left out.
    """
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    usable = usable[np.argsort(-scores[usable], kind="stable")[:candidates]]
    chosen = np.zeros(0, dtype=np.intp)
    for number in np.unique(classes[usable]):
        alike = usable[classes[usable] == number]
        chosen = np.concatenate([chosen, alike[kept(boxes[alike], scores[alike], overlap=overlap, most=most)]])
    return chosen[np.argsort(-scores[chosen], kind="stable")][:most]


def kept(boxes: Array, scores: Array, *, overlap: float, most: int) -> npt.NDArray[np.intp]:
    """Return the numbers of the boxes to keep, the best first: at most `most`, no two with more than `overlap`.

    `boxes` is float `[n, 4]` as left, top, right, bottom; the overlap of two is intersection over union.
    """
    # Stable, so that of equal scores the first box wins on every machine.
    order = np.argsort(-scores, kind="stable")
    widths = np.maximum(0, boxes[:, 2] - boxes[:, 0])
    heights = np.maximum(0, boxes[:, 3] - boxes[:, 1])
    areas = widths * heights
    chosen: list[int] = []
    while order.size and len(chosen) < most:
        best, rest = int(order[0]), order[1:]
        chosen.append(best)
        shared = _shared(boxes[best], boxes[rest])
        union = areas[best] + areas[rest] - shared
        # Boxes without any area overlap nothing.
        order = rest[shared <= overlap * union]
    return np.array(chosen, dtype=np.intp)


def _shared(box: Array, others: Array) -> Array:
    """Return the area that each of `others` has in common with `box`."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    area: Array = np.maximum(0, width) * np.maximum(0, height)
    return area
