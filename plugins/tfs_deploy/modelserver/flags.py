"""The command line of the embedded model server, parsed as TensorFlow parses flags (contract 1).

``--name=value``; for booleans ``--name``, ``--name=true`` and ``--name=false``, and nothing else that begins with
``--name`` (``--enable_batchings`` is a malformed value). There is no ``--noname``, and ``--name value`` is two unknown
arguments. A malformed value, or ``--help``, ends the program with the usage; what is no flag is only printed, and the
server starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tfs_deploy.serving.flags import FLAGS, Flag, FlagType, Value

# What C's scanf takes for %d and %f, with nothing behind it.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+", re.ASCII)
_FLOAT = re.compile(
    r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf|nan)", re.ASCII
)


class MalformedFlag(Exception):
    """A flag's value cannot be read."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(f"Couldn't interpret value {text} for flag {name}.")


_HELP = "--help"


@dataclass(frozen=True, slots=True)
class Flags:
    """The values of all flags; `given` are those on the command line, `unknown` is what is no flag."""

    values: dict[str, Value]
    given: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = field(default=())

    def text(self, name: str) -> str:
        """Return the value of a string flag."""
        return str(self.values[name])

    def number(self, name: str) -> int:
        """Return the value of an integer flag."""
        return int(self.values[name])

    def switch(self, name: str) -> bool:
        """Return the value of a boolean flag."""
        return bool(self.values[name])

    @property
    def asks_for_help(self) -> bool:
        """Tell whether the first argument that is no flag is ``--help``."""
        return self.unknown[:1] == (_HELP,)

    def without_effect(self) -> tuple[str, ...]:
        """Return the flags that were given and do nothing here."""
        return tuple(sorted(name for name in self.given if not FLAGS[name].embedded))


def parse(arguments: Sequence[str]) -> Flags:
    """Return the flags in `arguments`, the last of each name; raise MalformedFlag."""
    values: dict[str, Value] = {flag.name: flag.default for flag in FLAGS.values()}
    given: set[str] = set()
    unknown: list[str] = []
    for at, argument in enumerate(arguments):
        if argument == "--":
            unknown.extend(arguments[at:])
            break
        flag = _flag_of(argument)
        if flag is None:
            unknown.append(argument)
            continue
        values[flag.name] = _value(flag, argument[2 + len(flag.name) :])
        given.add(flag.name)
    return Flags(values, frozenset(given), tuple(unknown))


def _flag_of(argument: str) -> Flag | None:
    """Return the flag that `argument` is for: of a boolean only the beginning must be its name."""
    if not argument.startswith("--"):
        return None
    name, equals, _ = argument[2:].partition("=")
    if equals and name in FLAGS:
        return FLAGS[name]
    return next((flag for flag in FLAGS.values() if flag.type is FlagType.BOOL and name.startswith(flag.name)), None)


def _value(flag: Flag, text: str) -> Value:
    """Return the value that `text`, all that stands behind the name, stands for; raise MalformedFlag."""
    if flag.type is FlagType.BOOL:
        if text not in ("", "=true", "=false"):
            raise MalformedFlag(text, flag.name)
        return text != "=false"
    text = text[1:]
    if flag.type is FlagType.STRING:
        return text
    if flag.type is FlagType.FLOAT:
        if not _FLOAT.fullmatch(text):
            raise MalformedFlag(text, flag.name)
        return float(text)
    if not _INTEGER.fullmatch(text) or not flag.type.in_range(int(text)):
        raise MalformedFlag(text, flag.name)
    return int(text)


def usage(program: str) -> str:
    """Return the text that lists every flag."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in FLAGS.values():
        kind = "string" if isinstance(flag.default, str) else type(flag.default).__name__
        shown = str(flag.default).lower() if isinstance(flag.default, bool) else repr(flag.default)
        note = "" if flag.embedded else " (has no meaning in this model server)"
        lines.append(f"\t--{flag.name}={shown:<24}\t{kind}\t{flag.usage}{note}")
    return "\n".join(lines) + "\n"
