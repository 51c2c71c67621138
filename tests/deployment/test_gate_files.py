"""The files of gates in the store: each content once, in parts, and returned only as they were kept."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_fake import FakeStateDocuments
from tfs_deploy.deployment import gate_files
from tfs_deploy.deployment.gate_files import keep, restore
from tfs_deploy.errors import Contention, InvalidInput, StoreError
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.validation import gates as registry
from tfs_deploy.validation.config import Gates, gates_from
from tfs_deploy.validation.gates.accuracy import AccuracyOptions
from tfs_deploy.validation.gates.golden import GoldenOptions
from tfs_deploy.validation.report import KeptGates


@pytest.fixture
def documents() -> FakeStateDocuments:
    return FakeStateDocuments()


@pytest.fixture
def small_parts(monkeypatch) -> int:
    monkeypatch.setattr(gate_files, "PART_BYTES", 10)
    return 10


def gates_on(path: Path, **options: Any) -> Gates:
    return gates_from({"accuracy": {"file": str(path), **options}, "rpc_seconds": 7.5})


def through_json(kept: KeptGates) -> KeptGates:
    return from_json(KeptGates, to_json(kept))


def parts(documents: FakeStateDocuments) -> list[str]:
    return [key for key in documents.list("gate_files/") if not key.endswith(".json")]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 95])
def test_a_file_is_restored_on_a_machine_that_never_had_it(documents, tmp_path, small_parts, size):
    data = os.urandom(size)
    (tmp_path / "mine").mkdir()
    source = tmp_path / "mine" / "labelled.npz"
    source.write_bytes(data)
    kept = through_json(keep(documents, gates_on(source, floor=0.25)))
    source.unlink()
    gates = restore(documents, kept, tmp_path / "other")
    restored = Path(gates.options["accuracy"].file)
    assert restored.read_bytes() == data
    assert restored.name == "labelled.npz"
    assert restored.is_relative_to(tmp_path / "other")
    assert gates.rpc_seconds == 7.5
    assert gates.options["accuracy"].floor == 0.25
    assert len(parts(documents)) == -(-size // small_parts)


@given(
    accuracy=st.none()
    | st.builds(AccuracyOptions, file=st.just(""), floor=st.floats(0, 1), compare_live=st.booleans()),
    golden=st.none() | st.builds(GoldenOptions, rtol=st.floats(0, 1e300), atol=st.floats(0, 1)),
    signature=st.booleans(),
    seconds=st.floats(0.001, 3600),
)
def test_gates_without_files_return_as_they_were(accuracy, golden, signature, seconds):
    options = {"accuracy": accuracy, "golden": golden, "signature": signature or None}
    gates = Gates({name: value for name, value in options.items() if value is not None}, seconds)
    documents = FakeStateDocuments()
    assert restore(documents, through_json(keep(documents, gates)), Path("nowhere")) == gates
    assert documents.stored == {}


def test_a_content_is_stored_once_whatever_its_name(documents, tmp_path, small_parts):
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).write_bytes(b"0123456789 the same bytes")
    kept = keep(documents, gates_on(tmp_path / "a.npz"))
    stored = dict(documents.stored)
    again = keep(documents, gates_on(tmp_path / "b.npz"))
    assert documents.stored == stored
    assert list(again.files.values()) == list(kept.files.values())


def test_two_files_of_one_name_do_not_overwrite_each_other(documents, tmp_path):
    for folder in ("golden", "labels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data").write_text(folder)
    gates = gates_from(
        {"golden": {"file": str(tmp_path / "golden/data")}, "accuracy": {"file": str(tmp_path / "labels/data")}}
    )
    restored = restore(documents, keep(documents, gates), tmp_path / "other")
    assert Path(restored.options["golden"].file).read_text() == "golden"
    assert Path(restored.options["accuracy"].file).read_text() == "labels"


@pytest.mark.parametrize("damage", ["other bytes", "missing part", "missing index", "shorter"])
def test_a_damaged_file_is_an_error_of_the_store_and_the_next_validation_repairs_it(
    documents, tmp_path, small_parts, damage
):
    source = tmp_path / "labelled.npz"
    source.write_bytes(b"0123456789 and further bytes")
    kept = keep(documents, gates_on(source))
    second = parts(documents)[1]
    if damage == "missing part":
        documents.delete(second)
    elif damage == "missing index":
        documents.delete(next(key for key in documents.list("gate_files/") if key.endswith("index.json")))
    else:
        documents.stored[second] = b"other text" if damage == "other bytes" else b"short"
    with pytest.raises(StoreError, match=r"labelled\.npz.*Validate the version again"):
        restore(documents, kept, tmp_path / "other")
    again = keep(documents, gates_on(source))
    restored = restore(documents, again, tmp_path / "other")
    assert Path(restored.options["accuracy"].file).read_bytes() == source.read_bytes()


def test_a_copy_that_was_interrupted_is_continued(documents, tmp_path, small_parts):
    source = tmp_path / "labelled.npz"
    source.write_bytes(os.urandom(35))
    kept = keep(documents, gates_on(source))
    index = next(key for key in documents.list("gate_files/") if key.endswith("index.json"))
    documents.delete(index)
    documents.delete(parts(documents)[-1])
    complete = dict(documents.stored)
    assert keep(documents, gates_on(source)) == kept
    assert {key: documents.stored[key] for key in complete} == complete, "parts that were there are not written again"
    restore(documents, kept, tmp_path / "other")


def test_two_validations_may_copy_the_same_file_at_once(documents, tmp_path):
    source = tmp_path / "labelled.npz"
    source.write_bytes(b"bytes")

    class Slower(FakeStateDocuments):
        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            documents.write(key, body, expected=None) if documents.read(key) is None else None
            self.stored = documents.stored
            return super().write(key, body, expected=expected)

    slower = Slower()
    kept = keep(slower, gates_on(source))
    restore(slower, kept, tmp_path / "other")

    class Hostile(FakeStateDocuments):
        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            raise Contention("Changed.", "Again.")

    with pytest.raises(Contention):
        keep(Hostile(), gates_on(source))


def test_a_file_that_is_too_large_or_changes_is_refused_before_its_index_is_written(
    documents, tmp_path, small_parts, monkeypatch
):
    source = tmp_path / "labelled.npz"
    source.write_bytes(os.urandom(35))
    with monkeypatch.context() as patch:
        patch.setattr(gate_files, "MAX_FILE_BYTES", 30)
        with pytest.raises(InvalidInput, match=r"labelled\.npz.*more than"):
            keep(documents, gates_on(source))
    assert documents.stored == {}

    class Growing(FakeStateDocuments):
        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            source.write_bytes(source.read_bytes() + b"more")
            return super().write(key, body, expected=expected)

    growing = Growing()
    with pytest.raises(InvalidInput, match="changed while it was read"):
        keep(growing, gates_on(source))
    assert not [key for key in growing.list("") if key.endswith("index.json")]
    with pytest.raises(InvalidInput, match="cannot be read"):
        keep(documents, gates_on(tmp_path / "absent"))


def test_a_large_file_is_not_held_in_memory(documents, tmp_path):
    source = tmp_path / "labelled.npz"
    with source.open("wb") as stream:
        stream.truncate(6 * gate_files.PART_BYTES)

    class OnDisk(FakeStateDocuments):
        def write(self, key: str, body: bytes, *, expected: str | None) -> str:
            (tmp_path / key.replace("/", "-")).write_bytes(body)
            return ""

    tracemalloc.start()
    try:
        keep(OnDisk(), gates_on(source))
        assert tracemalloc.get_traced_memory()[1] < 4 * gate_files.PART_BYTES
    finally:
        tracemalloc.stop()


def test_a_gate_that_this_release_lacks_is_named(documents, tmp_path, monkeypatch):
    kept = keep(documents, Gates())
    monkeypatch.setattr(registry, "GATES", registry.GATES[1:])
    with pytest.raises(InvalidInput, match=r"record of a validation's gates.*signature"):
        restore(documents, kept, tmp_path)
