"""The gateway as a child process, in front of the demo's model servers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfs_deploy.demo.model_server import child_environment, end
from tfs_deploy.errors import ModelServerError, Unreachable

_START_SECONDS = 60.0
_SERVING = re.compile(r"Serving \S+ on (http://\S+)")


@contextlib.contextmanager
def gateway(targets: Sequence[str], model: str, workspace: Path) -> Iterator[str]:
    """Serve `model` of the model servers `targets` and give the URL; raise ModelServerError or Unreachable."""
    directory = workspace / "gateway"
    directory.mkdir()
    config = directory / "gateway.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(configuration(targets, model), indent=1), encoding="utf-8")
    log, access_log = workspace / "log" / "gateway.log", workspace / "log" / "gateway-access.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as told, access_log.open("wb") as access:
        process = subprocess.Popen(  # noqa: S603 - no shell; our own module
            [sys.executable, "-m", "tfs_deploy.cli", "gateway", "--config", str(config)],
            cwd=directory,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=access,
            stderr=told,
            start_new_session=True,
        )
    try:
        yield _url(process, log)
    finally:
        end(process)


def configuration(targets: Sequence[str], model: str) -> dict[str, Any]:
    """Return what the gateway is told: pictures of any size, dark on white, are made what the digits model takes."""
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


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the gateway has told where it listens."""
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up:
        ended = process.poll() is not None
        found = _SERVING.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        if ended:
            raise ModelServerError(
                f"The gateway ended with exit code {process.returncode} instead of serving.",
                f"See {log}.",
                code="UNAVAILABLE",
            )
        time.sleep(0.1)
    raise Unreachable(f"The gateway did not serve within {_START_SECONDS:g} s.", f"See {log}.")
