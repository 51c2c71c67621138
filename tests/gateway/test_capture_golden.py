"""Captured traffic to golden and warm-up requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.test_capture import captured
from tfs_deploy.cli.main import app
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.gateway.capture.files import CapturedRequest, encode, redact
from tfs_deploy.gateway.capture.golden import GOLDEN_FILE, WARMUP_FILE, make_golden
from tfs_deploy.savedmodel import tfrecord
from tfs_deploy.savedmodel.requests import parse_golden, read_warmup


def numbers(*values: float, **changes: Any) -> list[CapturedRequest]:
    """Return requests whose input and output hold these, one second apart."""
    return [
        captured(
            inputs={"x": np.array([value], np.float32)},
            outputs={"y": np.array([value * 2], np.float32)},
            **{"at": float(second), **changes},
        )
        for second, value in enumerate(values)
    ]


def write(path: Path, requests: list[CapturedRequest], *, cut: int = 0) -> Path:
    data = b"".join(tfrecord.encode([encode(request, rate=1.0) for request in requests]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[: len(data) - cut])
    return path


def golden_in(out: Path) -> list[float]:
    return [one.inputs["x"].item() for one in parse_golden((out / GOLDEN_FILE).read_bytes(), where="here")]


def test_golden_requests_are_different_of_one_version_and_spread_over_the_time(tmp_path: Path) -> None:
    write(tmp_path / "in/m-a.tfrecord", numbers(*range(100), 50, 51))
    write(tmp_path / "in/deep/m-b.tfrecord", numbers(1000, version=2))
    made = make_golden([tmp_path / "in"], tmp_path / "out", most=4)
    assert (made.model, made.version, made.golden, made.warmup) == ("m", 3, 4, 4)
    assert (made.read, made.repeated, made.other) == (103, 2, 1)
    assert golden_in(tmp_path / "out") == [0, 33, 66, 99]
    for one in parse_golden((tmp_path / "out" / GOLDEN_FILE).read_bytes(), where="here"):
        assert one.outputs["y"].item() == one.inputs["x"].item() * 2
    assert len(read_warmup(tmp_path / "out" / WARMUP_FILE)) == 4


def test_a_few_warm_up_requests_are_enough(tmp_path: Path) -> None:
    write(tmp_path / "m.tfrecord", numbers(*range(100)))
    made = make_golden([tmp_path / "m.tfrecord"], tmp_path / "out", most=64)
    assert (made.golden, made.warmup) == (64, 8)
    assert golden_in(tmp_path / "out")[0] == 0
    assert golden_in(tmp_path / "out")[-1] == 99


def test_several_models_need_a_name(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", numbers(1, model="a"))
    write(tmp_path / "b.tfrecord", numbers(2, model="b"))
    with pytest.raises(InvalidInput, match="a, b"):
        make_golden([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert make_golden([tmp_path], tmp_path / "out", model="b").golden == 1
    assert golden_in(tmp_path / "out") == [2]
    with pytest.raises(InvalidInput, match="'c'"):
        make_golden([tmp_path], tmp_path / "out", model="c")


def test_requests_whose_inputs_were_blanked_only_warm_up(tmp_path: Path) -> None:
    write(tmp_path / "m.tfrecord", [redact(one, ("x",)) for one in numbers(1, 2)])
    made = make_golden([tmp_path / "m.tfrecord"], tmp_path / "out")
    assert (made.golden, made.warmup, made.without_answer, made.golden_file) == (0, 1, 1, "")
    assert not (tmp_path / "out" / GOLDEN_FILE).exists()


def test_of_a_file_that_is_still_written_the_whole_records_count(tmp_path: Path) -> None:
    cut = write(tmp_path / "m.tfrecord.partial", numbers(1, 2, 3), cut=5)
    assert make_golden([cut], tmp_path / "out").golden == 2
    damaged = write(tmp_path / "damaged.tfrecord", numbers(1, 2, 3), cut=5)
    with pytest.raises(CorruptModel, match="damaged"):
        make_golden([damaged], tmp_path / "out")


def test_what_is_no_capture_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        make_golden([tmp_path], tmp_path / "out")
    with pytest.raises(NotFound):
        make_golden([tmp_path / "nothing"], tmp_path / "out")
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    with pytest.raises(InvalidInput, match="no request"):
        make_golden([tmp_path / "empty.tfrecord"], tmp_path / "out")
    (tmp_path / "text.tfrecord").write_text("hello, this is no TFRecord at all")
    with pytest.raises(CorruptModel):
        make_golden([tmp_path / "text.tfrecord"], tmp_path / "out")


def test_the_command_line_makes_them(tmp_path: Path) -> None:
    write(tmp_path / "m.tfrecord", numbers(1, 2))
    out = tmp_path / "out"
    got = CliRunner().invoke(app, ["golden", "make", str(tmp_path), "--out", str(out), "--max", "1", "--json"])
    assert got.exit_code == 0, got.output
    answer = json.loads(got.stdout)
    assert (answer["golden"], answer["version"], answer["golden_file"]) == (1, 3, str(out / GOLDEN_FILE))
    assert golden_in(out) == [1]
    got = CliRunner().invoke(app, ["golden", "make", str(tmp_path / "none"), "--out", str(out)])
    assert got.exit_code == 2
    assert "There is no file" in got.output
