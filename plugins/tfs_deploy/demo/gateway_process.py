"""The gateway as a child process in front of the demo's model servers, and its answers to PNG files of digits."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from tfs_deploy.demo.digits import held_out
from tfs_deploy.demo.model_server import child_environment, end
from tfs_deploy.demo.results import Answer
from tfs_deploy.errors import MissingExtra, ModelServerError, Unreachable

_START_SECONDS = 60.0
_REQUEST_SECONDS = 30.0
_SERVING = re.compile(r"Serving \S+ on (http://\S+)")
# Pixels of the PNG file per pixel of the digit.
_SCALE = 16
_INK = 16.0


@contextlib.contextmanager
def gateway(targets: Sequence[str], model: str, workspace: Path) -> Iterator[str]:
    """Serve `model` of the model servers `targets` and yield the URL; raise ModelServerError or Unreachable."""
    directory = workspace / "gateway"
    directory.mkdir()
    config = directory / "gateway.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(configuration(targets, model), indent=1), encoding="utf-8")
    log, access_log = workspace / "log" / "gateway.log", workspace / "log" / "gateway-access.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, access_log.open("wb") as access:
        process = subprocess.Popen(  # noqa: S603 - no shell; our own module
            [sys.executable, "-m", "tfs_deploy.cli", "gateway", "--config", str(config)],
            cwd=directory,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=access,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield _url(process, log)
    finally:
        end(process)


def configuration(targets: Sequence[str], model: str) -> dict[str, Any]:
    """Return a gateway configuration that scales dark-on-white images to the input of the digits model."""
    options = {
        "input": "images",
        "size": [8, 8],
        "mode": "L",
        "invert": True,
        "resample": "box",
        # The model takes 0 (paper) to 16 (ink).
        "scale": 16 / 255,
    }
    answer = {"output": "probabilities", "labels": [str(digit) for digit in range(10)], "top": 3}
    return {
        "replicas": list(targets),
        "listen": {"address": "127.0.0.1", "port": 0},
        "pool": {"workers": 1},
        "fetch": {"enabled": False},
        "models": {
            model: {
                "description": "Handwritten digits",
                "processor": {"name": "images", "options": options},
                "postprocessor": {"name": "classification", "options": answer},
            }
        },
    }


def write_png(image: npt.NDArray[np.float32], path: Path) -> None:
    """Write `image` `[8, 8, 1]` of 0 (paper) to 16 (ink) as a PNG of 128 x 128 pixels, dark on white."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "gateway") from error
    grey = np.round(255.0 - image[:, :, 0] * (255.0 / _INK)).astype(np.uint8)
    Image.fromarray(grey.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)).save(path, "PNG")


def classify_pngs(url: str, model: str, rows: Sequence[int], directory: Path) -> tuple[Answer, ...]:
    """Write those rows of the held-out digits to `directory`, and let the gateway at `url` classify each file.

    Raises Unreachable if it does not answer, ModelServerError for an error reply.
    """
    images, labels = held_out()
    answers = []
    for row in rows:
        path = directory / f"digit-{row}.png"
        write_png(images[row], path)
        answers.append(_classify(url, model, path, images[row], int(labels[row])))
    return tuple(answers)


def _classify(url: str, model: str, path: Path, image: npt.NDArray[np.float32], truth: int) -> Answer:
    body = json.dumps({"item": {"b64": base64.b64encode(path.read_bytes()).decode("ascii")}})
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_REQUEST_SECONDS)
    try:
        connection.request("POST", f"/v1/models/{model}", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        document = json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"The gateway at {url} does not answer: {error}.", "See its log.") from error
    finally:
        connection.close()
    if reply.status != HTTPStatus.OK:
        raise ModelServerError(
            f"The gateway answers with {reply.status}: {document.get('detail')}", "See its log.", code="UNKNOWN"
        )
    result = document["result"]
    return Answer(image, truth, int(result["label"]), float(result["score"]), int(document["version"]))


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the gateway has logged its address."""
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up:
        ended = process.poll() is not None
        match = _SERVING.search(log.read_text(encoding="utf-8", errors="replace"))
        if match:
            return match[1]
        if ended:
            raise ModelServerError(
                f"The gateway ended with exit code {process.returncode} instead of serving.",
                f"See {log}.",
                code="UNAVAILABLE",
            )
        time.sleep(0.1)
    raise Unreachable(f"The gateway did not serve within {_START_SECONDS:g} s.", f"See {log}.")
