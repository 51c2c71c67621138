"""The ways a version can be broken that contract 20.7 lists, made from a good one; for tests and benchmarks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfs_deploy.savedmodel.requests import WARMUP_PATH, WarmupRequest, write_warmup
from tfs_deploy.savedmodel.tfrecord import encode
from tfs_deploy.serving.codec import messages


def empty(directory: Path) -> None:
    """A directory with nothing in it."""
    shutil.rmtree(directory)
    directory.mkdir()


def garbage(directory: Path) -> None:
    """Nine bytes that are no SavedModel."""
    (directory / "saved_model.pb").write_bytes(b"garbage..")


def no_variables(directory: Path) -> None:
    """What a server calls AVAILABLE, and cannot answer from."""
    shutil.rmtree(directory / "variables")


def no_serve_tag(directory: Path) -> None:
    """A MetaGraph with another tag."""
    saved = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    for graph in saved.meta_graphs:
        del graph.meta_info_def.tags[:]
        graph.meta_info_def.tags.append("train")
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())


def failing_warmup(directory: Path) -> None:
    """A warm-up request with an input that the signature does not have."""
    _room(directory)
    absent = WarmupRequest("serving_default", {"absent": np.zeros(1, np.float32)})
    write_warmup(directory / WARMUP_PATH, "half", [absent])


def undecodable_warmup(directory: Path) -> None:
    """A warm-up record that is no PredictionLog."""
    _room(directory)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode([b"\xff\xff\xff not a message"])))


def no_tfrecord_warmup(directory: Path) -> None:
    """A warm-up file that is no TFRecord."""
    _room(directory)
    (directory / WARMUP_PATH).write_bytes(b"this is a text and no TFRecord file at all")


BROKEN: dict[str, Callable[[Path], None]] = {
    "empty directory": empty,
    "garbage saved_model.pb": garbage,
    "variables/ missing": no_variables,
    "no serve tag": no_serve_tag,
    "failing warm-up request": failing_warmup,
    "undecodable warm-up record": undecodable_warmup,
    "warm-up file is no TFRecord": no_tfrecord_warmup,
}


def broken_copy(source: Path, target: Path, kind: str) -> Path:
    """Copy the good `source` to `target` and break it as `kind` says."""
    shutil.copytree(source, target)
    BROKEN[kind](target)
    return target


def _room(directory: Path) -> None:
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
