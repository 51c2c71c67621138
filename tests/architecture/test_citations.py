"""What code and documents cite is in docs/: sections of the contract as `contract 5.3`, invariants as `I3`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
NUMBER = r"\d+(?:\.\d+)*"
CONTRACT = re.compile(rf"\b[Cc]ontract ({NUMBER}(?:(?:,| and| to|, and) {NUMBER})*)")
INVARIANT = re.compile(r"\b(I\d)\b")
# Other ways to write the same, and documents that are not in the repository. Put together here, so that this file does
# not find itself.
OTHER_FORMS = re.compile(
    "|".join((r"[Cc]ontract," + r" \d", r"[Cc]ontract" + r" sections?", r"§ ?" + r"\d", r"[Dd]esign" + r" sections? \d",
              r"design" + r"\.md", r"style" + r"\.md", r"airflow-3\.3" + r"\.md"))
)  # fmt: skip


@functools.cache
def sections() -> set[str]:
    text = (DOCS / "tf-serving-contract.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^#+ ({NUMBER})\.? ", text, re.MULTILINE))


@functools.cache
def invariants() -> set[str]:
    text = (DOCS / "invariants.md").read_text(encoding="utf-8")
    return set(re.findall(r"^## (I\d)\b", text, re.MULTILINE))


def documents() -> list[Path]:
    """Return the Python and Markdown files of the repository, without the contract itself."""
    folders = [REPOSITORY / name for name in ("plugins", "dags", "tests", "benchmarks", "docker", "docs")]
    paths = [path for folder in folders for suffix in ("*.py", "*.md") for path in folder.rglob(suffix)]
    return sorted(path for path in (*paths, *REPOSITORY.glob("*.md")) if path.name != "tf-serving-contract.md")


def one_line(text: str) -> str:
    """Return `text` without its line ends: a citation may be broken there, in a comment too."""
    return re.sub(r"\s*\n\s*(?:# )?", " ", text)


def cited(text: str) -> Iterator[str]:
    for numbers in CONTRACT.findall(one_line(text)):
        yield from re.findall(NUMBER, numbers)


def of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", documents(), ids=of)
def test_what_is_cited_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(cited(text)) <= sections()
    assert set(INVARIANT.findall(text)) <= invariants()
    assert OTHER_FORMS.findall(text) == []


def test_sections_and_invariants_are_read_from_the_documents() -> None:
    assert sections() >= {"1", "5.3", "20.14"}
    assert invariants() == {"I1", "I2", "I3", "I4", "I5"}


def test_a_citation_is_found_in_every_form() -> None:
    assert list(cited("Labels (contract 5.3, 20.1 and 20.11); contract\n    # 3 to 5. Contract 8, and 9 words.")) == [
        "5.3", "20.1", "20.11", "3", "5", "8", "9"
    ]  # fmt: skip


def test_files_that_the_invariants_name_exist() -> None:
    text = (DOCS / "invariants.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", text)
    assert named
    for name, test in named:
        assert (REPOSITORY / name).exists(), name
        assert not test or f"def {test}(" in (REPOSITORY / name).read_text(encoding="utf-8"), test


def test_files_that_the_architecture_names_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = REPOSITORY / "plugins" / "tfs_deploy"
    named = re.findall(r"\b([a-z_]+/[a-z_/]+\.py|[a-z_]+/)(?![\w/])", text)
    roots = {path.name for path in package.iterdir()}
    for name in named:
        if name.split("/")[0] in roots:
            assert (package / name).exists(), name
    assert len(named) > 20
