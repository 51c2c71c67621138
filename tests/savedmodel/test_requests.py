from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.savedmodel import requests, tfrecord
from tfs_deploy.savedmodel.requests import GoldenRequest, WarmupRequest

INPUTS = {
    "images": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "names": np.array([b"a\x00", b""], object),
    "low": np.array([1.5], ml_dtypes.bfloat16),
}


def test_golden_requests_come_back_with_every_dtype(tmp_path: Path) -> None:
    path = tmp_path / requests.GOLDEN_PATH
    outputs = {"class": np.array([3], np.int64), "flag": np.array(True)}
    requests.write_golden(path, "m", [GoldenRequest("predict_images", INPUTS, outputs)])

    (read,) = requests.read_golden(path)
    assert read.signature == "predict_images"
    for given, found in ((INPUTS, read.inputs), (outputs, read.outputs)):
        assert found.keys() == given.keys()
        for name in given:
            assert found[name].dtype == given[name].dtype
            assert found[name].shape == given[name].shape
            assert found[name].tolist() == given[name].tolist()


def test_warmup_records_say_what_tf_serving_reads(tmp_path: Path) -> None:
    path = tmp_path / requests.WARMUP_PATH
    requests.write_warmup(path, "m", [WarmupRequest("s", INPUTS)] * 2)

    logs = list(requests.read_logs(path))
    assert len(logs) == 2
    assert logs[0].WhichOneof("log_type") == "predict_log"
    assert logs[0].predict_log.request.model_spec.name == "m"
    assert logs[0].predict_log.request.model_spec.signature_name == "s"
    assert not logs[0].predict_log.HasField("response")
    assert [one.inputs.keys() for one in requests.read_warmup(path)] == [INPUTS.keys()] * 2


def test_the_bytes_do_not_depend_on_the_order_of_inputs(tmp_path: Path) -> None:
    for number, inputs in enumerate((INPUTS, dict(reversed(INPUTS.items())))):
        requests.write_warmup(tmp_path / str(number), "m", [WarmupRequest("s", inputs)])
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.mark.parametrize("count", [0, 1001])
def test_a_warmup_file_that_would_not_load_is_not_written(tmp_path: Path, count: int) -> None:
    with pytest.raises(InvalidInput, match=str(count)):
        requests.write_warmup(tmp_path / "w", "m", [WarmupRequest("s", {"x": np.zeros(1)})] * count)
    assert not (tmp_path / "w").exists()


def test_a_golden_request_needs_outputs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="request 0 has no outputs"):
        requests.write_golden(tmp_path / "g", "m", [GoldenRequest("s", INPUTS, {})])
    requests.write_warmup(tmp_path / "w", "m", [WarmupRequest("s", INPUTS)])
    with pytest.raises(CorruptModel, match=r"record 0 .* response"):
        requests.read_golden(tmp_path / "w")


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        requests.read_golden(tmp_path / "none")
    path = tmp_path / "bad"
    path.write_bytes(b"".join(tfrecord.encode([b"\xff\xff\xff"])))
    with pytest.raises(CorruptModel, match=r"record 0 .* not a PredictionLog"):
        requests.read_golden(path)
    path.write_bytes(b"certainly not TFRecord")
    with pytest.raises(CorruptModel, match="byte 0"):
        requests.read_golden(path)
