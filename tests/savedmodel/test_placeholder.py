"""The committed placeholder is the one that its generator writes, small, and read without TensorFlow."""

from __future__ import annotations

import runpy
from pathlib import Path

from placeholder_files import write_placeholder
from tfs_deploy.savedmodel import inspection, placeholder
from tfs_deploy.savedmodel.placeholder import MESSAGE, is_placeholder
from tfs_deploy.serving.codec import messages

GENERATOR = Path(__file__).with_name("generate_placeholder.py")


def test_the_committed_graph_has_not_drifted() -> None:
    built = runpy.run_path(str(GENERATOR))["build"]().SerializeToString(deterministic=True)
    assert built == placeholder.files()["saved_model.pb"], (
        f"run `python tests/savedmodel/{GENERATOR.name}` and commit the result"
    )


def test_it_is_small_and_its_only_input_spells_the_message(tmp_path: Path) -> None:
    assert sum(len(data) for data in placeholder.files().values()) < 4096
    assert list(placeholder.files())[-1] == "saved_model.pb", "a server that is not careful sees no half of it"
    facts = inspection.check_saved_model(write_placeholder(tmp_path / "0"))
    assert (facts.signature_names, facts.has_variables) == (("serving_default",), False)
    saved = messages.SavedModel.FromString(placeholder.files()["saved_model.pb"])
    (alias,) = saved.meta_graphs[0].signature_def["serving_default"].inputs
    assert alias.replace("_", " ") == MESSAGE


def test_only_the_marker_makes_a_placeholder(tmp_path: Path) -> None:
    directory = write_placeholder(tmp_path / "0")
    assert is_placeholder(directory)
    (tmp_path / "link").symlink_to(directory)
    assert not is_placeholder(tmp_path / "link")
    (directory / placeholder.MARKER_PATH).unlink()
    assert not is_placeholder(directory)
    assert not is_placeholder(tmp_path / "none")
