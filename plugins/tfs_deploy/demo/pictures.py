"""Digits as pictures, and what the gateway says is on them: PNG in, JSON out."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from tfs_deploy.demo.digits import held_out
from tfs_deploy.demo.findings import Answer
from tfs_deploy.errors import MissingExtra, ModelServerError, Unreachable

# Pixels of the picture per pixel of the digit: large enough to look at.
_ENLARGED = 16
_INK = 16.0
_SECONDS = 30.0


def write_png(image: npt.NDArray[np.float32], path: Path) -> None:
    """Write `image` `[8, 8, 1]` of 0 (paper) to 16 (ink) as a PNG of 128 x 128 pixels, dark on white."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "gateway") from error
    grey = np.round(255.0 - image[:, :, 0] * (255.0 / _INK)).astype(np.uint8)
    Image.fromarray(grey.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)).save(path, "PNG")


def read_by_gateway(url: str, model: str, rows: Sequence[int], directory: Path) -> tuple[Answer, ...]:
    """Write those rows of the held-out digits to `directory`, and ask the gateway at `url` about each picture.

    Raise Unreachable if it does not answer, ModelServerError if it answers with a problem.
    """
    images, labels = held_out()
    answers = []
    for row in rows:
        path = directory / f"digit-{row}.png"
        write_png(images[row], path)
        answers.append(_ask(url, model, path, images[row], int(labels[row])))
    return tuple(answers)


def _ask(url: str, model: str, path: Path, image: npt.NDArray[np.float32], truth: int) -> Answer:
    body = json.dumps({"item": {"b64": base64.b64encode(path.read_bytes()).decode("ascii")}})
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_SECONDS)
    try:
        connection.request("POST", f"/v1/models/{model}", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        found = json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"The gateway at {url} does not answer: {error}.", "See its log.") from error
    finally:
        connection.close()
    if reply.status != HTTPStatus.OK:
        raise ModelServerError(
            f"The gateway answers with {reply.status}: {found.get('detail')}", "See its log.", code="UNKNOWN"
        )
    result = found["result"]
    return Answer(image, truth, int(result["label"]), float(result["score"]), int(found["version"]))
