"""Print what this distribution with the named extras needs, one requirement a line.

An image installs these in a layer of their own, which is made again only when pyproject.toml or constraints.txt change:

    python requirements.py pyproject.toml s3 sync > requirements.txt
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Yield the requirements of `extras`; an extra may name extras of this same distribution."""
    itself = re.compile(re.escape(project["name"]) + r"\[([\w\-, ]+)\]")
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = itself.fullmatch(requirement)
            if own:
                yield from requirements(project, [name.strip() for name in own[1].split(",")])
            else:
                yield requirement


def main(arguments: list[str]) -> None:
    """Print the requirements without extras, then those of the extras in `arguments[1:]`."""
    project = tomllib.loads(Path(arguments[0]).read_text(encoding="utf-8"))["project"]
    sys.stdout.write("\n".join(dict.fromkeys([*project["dependencies"], *requirements(project, arguments[1:])])) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
