"""Captures: what is written, what is blanked, what is dropped, and that an answer never waits for them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import FakeClock
from gateway.gateways import Running, gateway
from gateway.model_servers import Replica
from gateway.waiting import until
from tfs_deploy.errors import InvalidInput, StoreError, Unreachable
from tfs_deploy.gateway.capture.files import CapturedRequest, CaptureFiles, encode, redact
from tfs_deploy.gateway.capture.writer import Capture, CaptureUploader, Sampler
from tfs_deploy.gateway.config import CaptureConfig
from tfs_deploy.savedmodel import tfrecord
from tfs_deploy.savedmodel.requests import parse_golden, read_logs
from tfs_deploy.serving.codec import tensors


def captured(number: float = 1.0, *, size: int = 1, **changes: Any) -> CapturedRequest:
    """Return one request whose input holds `number`."""
    given: dict[str, Any] = {
        "model": "m",
        "signature": "serving_default",
        "version": 3,
        "label": "stable",
        "inputs": {"x": np.full(size, number, np.float32), "text": np.array([b"secret", b"more"], dtype=object)},
        "outputs": {"y": np.full(size, number * 2, np.float32), "z": np.array([True])},
        "at": 1_700_000_000.5,
    }
    return CapturedRequest(**{**given, **changes})


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.tfrecord"))


def within(seconds: float, done: Callable[[], bool]) -> None:
    """Wait until `done`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


# --- records --------------------------------------------------------------------------------------------------------


def test_a_record_is_a_prediction_log_that_golden_requests_are_read_from() -> None:
    record = encode(captured(), rate=0.25)
    (golden,) = parse_golden(b"".join(tfrecord.encode([record])), where="here")
    assert golden.signature == "serving_default"
    assert golden.inputs["x"].tolist() == [1.0]
    assert golden.inputs["text"].tolist() == [b"secret", b"more"]
    assert golden.outputs["y"].tolist() == [2.0]


def test_a_record_tells_version_label_time_and_rate(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_bytes(b"".join(tfrecord.encode([encode(captured(), rate=0.25)])))
    (log,) = read_logs(file)
    assert log.log_metadata.model_spec.version.value == 3
    assert log.log_metadata.timestamp_secs == 1_700_000_000
    assert log.log_metadata.sampling_config.sampling_rate == 0.25
    assert log.predict_log.request.model_spec.version_label == "stable"
    assert log.predict_log.response.model_spec.version.value == 3


def test_a_record_of_a_model_without_labels_names_none(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_bytes(b"".join(tfrecord.encode([encode(captured(label=""), rate=1.0)])))
    (log,) = read_logs(file)
    assert log.predict_log.request.model_spec.WhichOneof("version_choice") is None


@pytest.mark.parametrize("names", [("text",), ("x",), ("x", "text", "y")])
def test_blanked_inputs_keep_their_form_and_take_the_answer_with_them(names: tuple[str, ...]) -> None:
    request = captured()
    kept = redact(request, names)
    assert {alias: (array.dtype, array.shape) for alias, array in kept.inputs.items()} == {
        alias: (array.dtype, array.shape) for alias, array in request.inputs.items()
    }
    for name in names:
        if name in kept.inputs:
            assert not any(kept.inputs[name].tolist())
    assert not kept.outputs
    assert b"secret" not in encode(redact(request, ("text",)), rate=1.0)
    # What is sent on is untouched.
    assert request.inputs["x"].tolist() == [1.0]


def test_an_output_that_is_redacted_goes_alone() -> None:
    kept = redact(captured(), ("y", "unknown"))
    assert list(kept.outputs) == ["z"]
    assert kept.inputs["text"].tolist() == [b"secret", b"more"]


def test_the_sample_has_the_share_that_was_asked_for() -> None:
    import random

    for percent in (0.0, 5.0, 100.0):
        sampler = Sampler(percent, random.Random(1))
        taken = sum(sampler.sample() for _ in range(20_000))
        assert abs(taken / 20_000 - percent / 100) < 0.01
        assert percent not in (0.0, 100.0) or taken == 200 * percent


# --- files ----------------------------------------------------------------------------------------------------------


def make_files(directory: Path, **changes: Any) -> CaptureFiles:
    given: dict[str, Any] = {"total_bytes": 10_000, "file_bytes": 1_000, "clock": FakeClock()}
    made = CaptureFiles(directory, "m", **{**given, **changes})
    made.prepare()
    return made


def test_files_are_closed_when_full_and_hold_every_record(tmp_path: Path) -> None:
    finished: list[Path] = []
    files = make_files(tmp_path, finished=finished.append)
    records = [bytes([number]) * 300 for number in range(8)]
    assert all(files.append(record) for record in records)
    files.close()
    assert [record for path in finished for record in tfrecord.read_records(path)] == records
    assert sorted(finished) == files_in(tmp_path)
    assert all(path.stat().st_size <= 1_000 for path in finished)
    assert {path.stat().st_mode & 0o777 for path in finished} == {0o600}


def test_a_file_that_is_open_for_long_is_closed(tmp_path: Path) -> None:
    clock = FakeClock()
    files = make_files(tmp_path, clock=clock)
    files.append(b"one")
    files.close_if_old()
    assert not files_in(tmp_path)
    clock.advance(301.0)
    files.close_if_old()
    assert len(files_in(tmp_path)) == 1
    files.close()


def test_the_oldest_files_go_when_all_together_are_too_large(tmp_path: Path) -> None:
    other = tmp_path / "other-20260101T000000-00000000.tfrecord"
    other.write_bytes(b"x" * 9_000)
    os.utime(other, (0, 0))
    files = make_files(tmp_path, total_bytes=3_000)
    for number in range(30):
        assert files.append(bytes([number]) * 400)
        size = sum(path.stat().st_size for path in tmp_path.glob("m-*"))
        assert size <= 3_000, number
    files.close()
    left = [record[0] for path in files_in(tmp_path) if path != other for record in tfrecord.read_records(path)]
    assert 29 in left
    assert 0 not in left
    assert other.exists()


def test_a_record_that_is_larger_than_a_file_is_not_written(tmp_path: Path) -> None:
    files = make_files(tmp_path)
    assert not files.append(b"x" * 2_000)
    files.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    files = make_files(tmp_path, clock=clock)
    assert files.append(b"before")
    really = os.write
    left = [20]

    def write(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        taken = really(descriptor, data[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", write)
    assert not files.append(b"x" * 100)
    assert not files.append(b"not even tried")
    left[0] = 10_000
    assert not files.append(b"still not tried")
    clock.advance(6.0)
    assert files.append(b"after")
    files.close()
    records = [list(tfrecord.read_records(path)) for path in files_in(tmp_path)]
    assert sorted(records) == [[b"after"], [b"before"]]


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        make_files(tmp_path / "file")


# --- the writer -----------------------------------------------------------------------------------------------------


def test_what_is_offered_is_written_by_the_thread(tmp_path: Path) -> None:
    capture = Capture("m", CaptureConfig(str(tmp_path), percent=100.0, redact=("text",)))
    capture.start()
    for number in range(20):
        capture.offer(captured(float(number)))
    capture.close(60.0)
    (file,) = files_in(tmp_path)
    logs = list(read_logs(file))
    assert [tensors.to_array(log.predict_log.request.inputs["x"]).item() for log in logs] == list(range(20))
    assert b"secret" not in file.read_bytes()
    assert capture.counts.written == 20
    assert capture.counts.dropped == {}


class _Stuck(CaptureFiles):
    """A disk that does not answer until `go` is set."""

    go: threading.Event

    def append(self, record: bytes) -> bool:
        self.go.wait(600.0)
        return super().append(record)


def test_a_disk_that_hangs_costs_captures_and_no_time(tmp_path: Path) -> None:
    _Stuck.go = threading.Event()
    capture = Capture("m", CaptureConfig(str(tmp_path), percent=100.0, queue=4), files=_Stuck)
    capture.start()
    # Each of them would wait for the disk if offering waited: the test would not end.
    for number in range(1000):
        capture.offer(captured(float(number)))
    # One is at the disk, four wait.
    assert capture.counts.dropped["busy"] in (995, 996)
    _Stuck.go.set()
    capture.close(60.0)
    assert capture.counts.written + capture.counts.dropped["busy"] == 1000


def test_what_waits_keeps_no_more_than_itself_in_memory(tmp_path: Path) -> None:
    capture = Capture("m", CaptureConfig(directory=str(tmp_path), percent=100.0))  # its thread does not run
    batch = np.zeros((32, 1000), np.float32)
    whole = weakref.ref(batch)
    capture.offer(captured(outputs={"y": batch[3:4]}))
    del batch
    assert whole() is None
    waits = capture._queue.get_nowait()
    assert waits is not None
    assert waits.outputs["y"].shape == (1, 1000)


def test_what_is_too_large_is_dropped_and_counted(tmp_path: Path) -> None:
    capture = Capture("m", CaptureConfig(str(tmp_path), record_mib=0.01))
    capture.start()
    capture.offer(captured(size=10_000))
    capture.close(60.0)
    assert capture.counts.dropped == {"too_large": 1}


def test_what_cannot_be_captured_is_dropped_and_the_thread_lives(tmp_path: Path) -> None:
    capture = Capture("m", CaptureConfig(str(tmp_path)))
    capture.start()
    capture.offer(captured(inputs={"x": np.array(["2026-01-01"], dtype="datetime64[D]")}))
    capture.offer(captured(inputs=None))
    capture.offer(captured(7.0))
    capture.close(60.0)
    assert capture.counts.dropped == {"failed": 2}
    assert capture.counts.written == 1


# --- copies ---------------------------------------------------------------------------------------------------------


def test_finished_files_are_copied_to_the_store(tmp_path: Path) -> None:
    from tfs_deploy.store.open import open_store

    store = str(tmp_path / "store")
    config = CaptureConfig(str(tmp_path / "captures"), percent=100.0, file_mib=0.001, upload=store)
    capture = Capture("m", config, uploader=CaptureUploader.from_config(config, "m"))
    capture.start()
    for number in range(10):
        capture.offer(captured(float(number)))
    capture.close(60.0)
    local = {path.name: path.read_bytes() for path in files_in(tmp_path / "captures")}
    documents = open_store(store).documents
    copied = {key.rpartition("/")[2]: documents.read(key).body for key in documents.list("captures/m/")}
    assert copied == local
    assert len(local) > 1
    assert capture.counts.copied == len(local)


def test_files_that_no_store_takes_are_refused_at_the_start(tmp_path: Path) -> None:
    config = CaptureConfig(str(tmp_path), file_mib=17.0, upload=str(tmp_path / "store"))
    with pytest.raises(InvalidInput, match="16 MiB"):
        CaptureUploader.from_config(config, "m")


def test_a_store_that_is_away_is_tried_again_and_holds_up_nothing(tmp_path: Path) -> None:
    from store_fake import FakeStore

    class Away:
        tries = 0

        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            self.tries += 1
            if self.tries < 3:
                raise Unreachable("The store does not answer.", "Try again.")
            return store.documents.write(key, body, expected=expected)

    store = FakeStore()
    away = Away()
    uploader = CaptureUploader(type("Store", (), {"documents": away})(), "m")
    capture = Capture("m", CaptureConfig(str(tmp_path), percent=100.0), uploader=uploader)
    capture.start()
    capture.offer(captured())
    within(60.0, lambda: capture.counts.written == 1)
    capture.close(60.0)
    assert away.tries == 3
    assert len(store.documents.list("captures/m/")) == 1


# --- in a gateway ---------------------------------------------------------------------------------------------------


def test_a_gateway_captures_what_the_model_server_got_and_gave(tmp_path: Path) -> None:
    async def whole() -> str:
        capture = {"directory": str(tmp_path), "percent": 100}
        async with gateway(Replica(), model={"capture": capture}) as g:
            for item in (1, 2.5):
                assert (await g.predict({"item": item})).status == 200
            assert (await g.predict({"item": "x"})).status == 422
            await _until_written(g, 2)
            return (await g.ask("/metrics")).body.decode()

    text = asyncio.run(whole())
    assert 'tfs_deploy_gateway_captured_total{model="m"} 2.0' in text
    (file,) = files_in(tmp_path)
    golden = parse_golden(file.read_bytes(), where="here")
    assert [(one.inputs["x"].tolist(), one.outputs["y"].tolist()) for one in golden] == [([1.0], [1.0]), ([2.5], [2.5])]


async def _until_written(g: Running, count: int) -> None:
    async def written() -> bool:
        return f'captured_total{{model="m"}} {float(count)}' in (await g.ask("/metrics")).body.decode()

    await until(written, f"{count} captures")
