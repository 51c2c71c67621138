from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.errors import CorruptModel, NotFound
from tfs_deploy.savedmodel import tfrecord

RECORDS = st.lists(st.binary(max_size=200), max_size=5)


def framed(records: list[bytes]) -> bytes:
    return b"".join(tfrecord.encode(records))


def decoded(data: bytes, **options: int) -> list[bytes]:
    return list(tfrecord.decode(io.BytesIO(data), where="here", **options))


@given(RECORDS)
def test_what_is_written_is_read(records: list[bytes]) -> None:
    assert decoded(framed(records)) == records


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), st.data())
def test_no_changed_bit_goes_unseen(records: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(framed(records))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptModel):
        decoded(bytes(damaged))


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), st.data())
def test_a_cut_is_seen_unless_it_is_between_records(records: list[bytes], data: st.DataObject) -> None:
    whole = framed(records)
    length = data.draw(st.integers(0, len(whole) - 1))
    borders = [len(framed(records[:count])) for count in range(len(records))]
    if length in borders:
        assert decoded(whole[:length]) == records[: borders.index(length)]
    else:
        with pytest.raises(CorruptModel, match="cut off"):
            decoded(whole[:length])


def test_the_bytes_are_tensorflows() -> None:
    # Written by tf.io.TFRecordWriter (TensorFlow 2.21) for b"abc".
    assert framed([b"abc"]).hex() == "0300000000000000b099490e6162636e57f121"


def test_the_error_names_the_offset_of_the_bad_record() -> None:
    data = bytearray(framed([b"first", b"second"]))
    data[-1] ^= 1
    with pytest.raises(CorruptModel, match=r"byte 21 of 'here' has data with a wrong checksum"):
        decoded(bytes(data))


def test_a_record_above_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(CorruptModel, match="has 6 bytes, and at most 5"):
        decoded(framed([b"123456"]), max_record_bytes=5)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing"):
        list(tfrecord.read_records(tmp_path / "nothing"))
