"""Handwritten digits: train a small network in a child process, and the post-processing of its served form.

``python -m tfs_deploy.demo.digits OUT --examples 1297 --epochs 10`` does the same by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.demo import digits_training
from tfs_deploy.errors import ExportFailed, InvalidInput, TFSDeployError

CHECKPOINT = "model.keras"
SAMPLES = "samples.npz"
LABELLED = "labelled.npz"
POSTPROCESS = "tfs_deploy.demo.digits:answer"
EXAMPLES = 1297
EPOCHS = 10
_TIMEOUT_SECONDS = 300.0
_MISSING = re.compile(r"^ModuleNotFoundError: No module named '(\w+)", re.MULTILINE)
_INSTALL = "pip install tensorflow scikit-learn"


def train(
    out_dir: str | Path,
    *,
    examples: int = EXAMPLES,
    epochs: int = EPOCHS,
    seed: int = 1,
    shuffle_labels: bool = False,
    python: str | None = None,
    timeout: float = _TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Train on the first `examples` digits and write the results to `out_dir`; the same arguments give the same model.

    Written are ``model.keras`` (input `images` float32 `[n, 8, 8, 1]` of 0 to 16, output `probabilities` float32
    `[n, 10]`), ``samples.npz`` (inputs for warm-up and golden requests) and ``labelled.npz`` (500 held-out examples,
    the same for every run). Returned is their accuracy (a fraction), the arguments, and the paths of the files.
    `python` is an interpreter that has TensorFlow and scikit-learn; without it the caller's own is used.
    """
    if examples < 1 or epochs < 1:
        raise InvalidInput(f"{examples} examples in {epochs} epochs teach nothing.", "Give at least 1 of each.")
    out = Path(os.path.abspath(out_dir))
    out.mkdir(parents=True, exist_ok=True)
    request = {
        "out_dir": str(out),
        "examples": examples,
        "epochs": epochs,
        "seed": seed,
        "shuffle_labels": shuffle_labels,
    }
    result = _run(python, json.dumps(request), timeout)
    files = {"checkpoint": CHECKPOINT, "samples": SAMPLES, "labelled": LABELLED}
    return {**result, **{key: str(out / name) for key, name in files.items()}}


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Return the examples that no training run has seen: images float32 `[500, 8, 8, 1]` and labels int64 `[500]`."""
    images, labels = digits_training.load()[2:]
    return images, labels


def answer(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the digit (int64) and the probabilities; compiled into the served graph."""
    from keras import ops

    probabilities = outputs["probabilities"]
    return {"digit": ops.cast(ops.argmax(probabilities, axis=-1), "int64"), "probabilities": probabilities}


def _run(python: str | None, request: str, timeout: float) -> dict[str, Any]:
    interpreter = sys.executable if python is None else shutil.which(python)
    if interpreter is None:
        raise InvalidInput(f"There is no Python interpreter {python!r}.", "Name an executable that has TensorFlow.")
    environment = dict(os.environ)
    if python is not None:
        # PYTHONPATH belongs to this interpreter; another one must not import its packages.
        environment.pop("PYTHONPATH", None)
    command = [interpreter, str(Path(digits_training.__file__)), request]
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the interpreter is the caller's choice
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise ExportFailed(
            f"The training did not end within {timeout:g} s.", "Give it fewer examples, fewer epochs or more time."
        ) from error
    if done.returncode:
        missing = _MISSING.search(done.stderr)
        if missing is not None:
            raise InvalidInput(
                f"The Python package {missing[1]!r} is not installed for {interpreter}.",
                f"Install it with: {_INSTALL}.",
            )
        last_line = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise ExportFailed(
            f"The training process ended with exit code {done.returncode}: {last_line}.",
            f"Check that {interpreter} is a Python interpreter that has TensorFlow and scikit-learn.",
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the arguments of the command line, and print the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tfs_deploy.demo.digits", description="Learn handwritten digits.")
    parser.add_argument("out", help="directory for the checkpoint, the samples and the labelled set")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="how many digits to learn from (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the digits (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="start of the random numbers (%(default)s)")
    parser.add_argument("--shuffle-labels", action="store_true", help="train on shuffled labels")
    given = parser.parse_args(arguments)
    try:
        result = train(
            given.out,
            examples=given.examples,
            epochs=given.epochs,
            seed=given.seed,
            shuffle_labels=given.shuffle_labels,
        )
    except TFSDeployError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
