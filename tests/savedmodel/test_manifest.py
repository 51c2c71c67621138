from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.savedmodel.manifest import MANIFEST_PATH, FileEntry


@pytest.fixture
def model(tiny_saved_model: Path) -> Path:
    (tiny_saved_model / "variables").mkdir()
    (tiny_saved_model / "variables" / "variables.index").write_bytes(b"index")
    (tiny_saved_model / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    return tiny_saved_model


def test_build_lists_every_file_sorted_and_write_gives_it_back(model: Path, clock: Any) -> None:
    built = manifests.build(model, tensorflow_version="2.21.0", provenance={"dag": "d"}, clock=clock)
    manifests.write(model, built)

    assert [entry.path for entry in built.files] == [
        "assets/words.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert built.files[0] == FileEntry(
        "assets/words.txt", 4, "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    )
    assert built.created_at == "2026-01-02T03:04:05+00:00"
    assert built.total_bytes == sum(entry.size for entry in built.files)
    assert list(built.signatures) == ["serving_default"]
    assert manifests.read(model) == built
    manifests.verify(model, built)


def test_the_manifest_is_not_part_of_the_fingerprint_and_its_bytes_are_stable(model: Path, clock: Any) -> None:
    first = manifests.build(model, clock=clock)
    manifests.write(model, first)
    written = (model / MANIFEST_PATH).read_bytes()
    manifests.write(model, manifests.build(model, clock=clock))
    assert (model / MANIFEST_PATH).read_bytes() == written
    assert [path.name for path in (model / MANIFEST_PATH).parent.iterdir()] == [Path(MANIFEST_PATH).name]


def test_the_fingerprint_depends_on_paths_and_contents_only(model: Path, tmp_path: Path, clock: Any) -> None:
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    before = manifests.build(model, clock=clock).fingerprint
    assert manifests.build(copy, provenance={"a": "b"}, clock=clock).fingerprint == before
    (copy / "assets" / "words.txt").rename(copy / "assets" / "word.txt")
    assert manifests.build(copy, clock=clock).fingerprint != before


def test_the_fingerprint_is_the_documented_digest() -> None:
    entry = FileEntry("a/ü", 3, "0" * 64)
    assert manifests.fingerprint_of([entry]) == (
        "sha256:" + __import__("hashlib").sha256(f'[["a/\\u00fc",3,"{"0" * 64}"]]'.encode()).hexdigest()
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_anywhere_is_seen(model: Path, clock: Any, data: st.DataObject) -> None:
    built = manifests.build(model, clock=clock)
    entry = data.draw(st.sampled_from([entry for entry in built.files if entry.size]))
    path = model / entry.path
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        manifests.verify(model, built, deep=False)
        with pytest.raises(CorruptModel, match=entry.path):
            manifests.verify(model, built)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (model / "assets/words.txt").unlink(), "'assets/words.txt' in .* is missing"),
        (lambda model: (model / "more").write_bytes(b""), "'more' in .* is not in the manifest"),
        (lambda model: (model / "assets/words.txt").write_bytes(b"a\n"), "2 bytes instead of 4"),
        (lambda model: (model / "loop").symlink_to(model), "not a plain file|leads out"),
    ],
)
def test_changes_are_seen_without_hashing(model: Path, clock: Any, change: Any, message: str) -> None:
    built = manifests.build(model, clock=clock)
    change(model)
    with pytest.raises(CorruptModel, match=message):
        manifests.verify(model, built, deep=False)


def test_signatures_that_are_not_the_models_are_seen(model: Path, clock: Any) -> None:
    built = manifests.build(model, clock=clock)
    with pytest.raises(CorruptModel, match="signatures"):
        manifests.verify(model, dataclasses.replace(built, signatures={}))


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "\x7f", os.fsdecode(b"\xff")])
def test_names_that_no_store_keeps_are_refused(model: Path, clock: Any, name: str) -> None:
    try:
        (model / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses the name itself")
    with pytest.raises(InvalidInput, match="character"):
        manifests.build(model, clock=clock)


def test_only_links_inside_and_plain_files_count(model: Path, tmp_path: Path, clock: Any) -> None:
    (model / "inside").symlink_to("assets/words.txt")
    assert "inside" in {entry.path for entry in manifests.build(model, clock=clock).files}
    (tmp_path / "secret").write_text("s")
    (model / "outside").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInput, match="leads out"):
        manifests.build(model, clock=clock)
    (model / "outside").unlink()
    (model / "dangling").symlink_to("nowhere")
    with pytest.raises(InvalidInput, match="has no target"):
        manifests.build(model, clock=clock)
    (model / "dangling").unlink()
    os.mkfifo(model / "pipe")
    with pytest.raises(InvalidInput, match="plain file"):
        manifests.build(model, clock=clock)


def test_a_directory_without_a_model_or_manifest_is_not_found(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(NotFound):
        manifests.build(tmp_path, clock=clock)
    with pytest.raises(NotFound, match="no manifest"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"files": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_one_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptModel, match="here"):
        manifests.parse(data, where="here")


@pytest.mark.parametrize(
    "entry",
    [
        FileEntry("../up", 1, "0" * 64),
        FileEntry("/etc/passwd", 1, "0" * 64),
        FileEntry("a//b", 1, "0" * 64),
        FileEntry(MANIFEST_PATH, 1, "0" * 64),
        FileEntry("a", -1, "0" * 64),
        FileEntry("a", 1, "0" * 63 + "g"),
    ],
)
def test_a_manifest_with_a_bad_entry_is_corrupt(model: Path, clock: Any, entry: FileEntry) -> None:
    files = (entry,)
    bad = dataclasses.replace(
        manifests.build(model, clock=clock), files=files, fingerprint=manifests.fingerprint_of(files)
    )
    with pytest.raises(CorruptModel):
        manifests.parse(to_json(bad), where="here")


def test_a_manifest_whose_fingerprint_is_not_that_of_its_list_is_corrupt(model: Path, clock: Any) -> None:
    bad = dataclasses.replace(manifests.build(model, clock=clock), fingerprint="sha256:" + "0" * 64)
    with pytest.raises(CorruptModel, match="fingerprint"):
        manifests.parse(to_json(bad), where="here")
    with pytest.raises(CorruptModel, match="fingerprint"):
        manifests.verify(model, bad)


def test_a_manifest_above_the_limit_is_not_parsed(monkeypatch: pytest.MonkeyPatch, model: Path, clock: Any) -> None:
    manifests.write(model, manifests.build(model, clock=clock))
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(CorruptModel, match="larger than 10"):
        manifests.read(model)
