"""Names under plugins/ are terms of the field: words of a private language may not stand in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "tfs_deploy"

# Each is a picture or a turn of phrase where the field has a term; CONTRIBUTING.md says how to name instead.
WORDS = [
    "told", "tell", "teller", "trouble", "troubles", "awaited", "tips", "tip", "room", "fate", "patience",
    "hearsay", "whoever", "wayback", "found", "seen", "look", "looks", "standing", "judge", "wish", "wishes",
    "rehearse", "rehearsal", "beside", "stranger", "strangers", "somebody", "nobody", "everybody", "anybody",
    "simple", "throwaway", "settle", "settled", "putback", "bringing", "bring", "brings", "needs", "trust",
    "figures", "exposition", "moments", "refusals", "suppression", "fitting", "landing", "arrivals", "way", "thing",
    "things", "stuff", "ours", "mine", "theirs", "truth", "story", "lesson",
]  # fmt: skip
PHRASES = ("so_far", "way_back", "put_back", "last_words", "held_everywhere", "served_thing", "taking_back")
# Terms of the field in which one of the words stands.
TERMS = {"NotFound", "not_found"}


def words(name: str) -> list[str]:
    """Return the words of a snake_case or CamelCase name, in lower case."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_")
    return [part for part in parts if part]


def objections(name: str) -> list[str]:
    """Return the words and phrases of `name` that may not stand in a name."""
    if name.strip("_") in TERMS:
        return []
    spelled = "_".join(words(name))
    return [word for word in words(name) if word in WORDS] + [
        phrase for phrase in PHRASES if f"_{phrase}_" in f"_{spelled}_"
    ]


def names(path: Path) -> Iterator[str]:
    """Yield the names of the module (or package) at `path`, and of its classes and functions."""
    yield path.parent.name if path.stem == "__init__" else path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_are_terms_of_the_field(path: Path) -> None:
    assert {name: objections(name) for name in names(path) if objections(name)} == {}


def test_words_are_found_in_every_spelling() -> None:
    assert words("_HTTPServerTips2") == ["http", "server", "tips2"]
    assert objections("HeldEverywhere") == ["held_everywhere"]
    assert objections("_put_back_labels") == ["put_back"]
    assert objections("NotFound") == []
