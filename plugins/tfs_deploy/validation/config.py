"""What a user asks of a version before it may go live: the gates file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tfs_deploy.jsonable import to_builtins
from tfs_deploy.validation import gates as registry
from tfs_deploy.validation.gate import Gate
from tfs_deploy.validation.report import KeptGates
from tfs_deploy.yamlfile import check_settings, read_yaml

_RpcSeconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]
_DEFAULT_RPC_SECONDS = 30.0


def _default_options() -> dict[str, Any]:
    return {gate.name: gate.default for gate in registry.GATES if _enabled(gate.default)}


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates of a deploy: by name the options of each gate that runs, and the seconds that one RPC may take."""

    options: Mapping[str, Any] = field(default_factory=_default_options)
    rpc_seconds: float = _DEFAULT_RPC_SECONDS

    def enabled(self) -> list[tuple[Gate[Any, Any], Any]]:
        """Return the gates that run and their options, in the order of the registry."""
        return [(gate, self.options[gate.name]) for gate in registry.GATES if gate.name in self.options]

    def paths(self) -> tuple[str, ...]:
        """Return the files that the gates name, each once."""
        named = (getattr(options, name) for gate, options in self.enabled() for name in gate.paths)
        return tuple(dict.fromkeys(path for path in named if path))

    def with_paths(self, change: Callable[[str], str]) -> Gates:
        """Return the same gates with `change(path)` in place of each path that they name."""
        return Gates(
            {gate.name: _with_paths(gate, options, change) for gate, options in self.enabled()}, self.rpc_seconds
        )


def read_gates(path: str | Path | None) -> Gates:
    """Return the gates of a YAML or JSON file (None: the defaults); raise InvalidInput where it does not fit.

    Relative paths in it count from the file's own directory.
    """
    if path is None:
        return Gates()
    source = Path(path)
    data = read_yaml(source, "gates file")
    gates = gates_from({} if data is None else data, where=f"The gates file {str(source)!r}")
    return gates.with_paths(lambda path: str(source.parent / path))


def gates_from(data: object, *, where: str = "The dict of gates", strict: bool = True) -> Gates:
    """Return `data` (dicts and lists) as gates; raise InvalidInput that names `where` and the key that does not fit.

    Without `strict`, text is read as the number or switch that it spells ("0.9").
    """
    fields = [(gate.name, _field_type(gate), gate.default) for gate in registry.GATES]
    # A struct: a misspelt key must be an error here, or a gate would be silently missing.
    file_type = msgspec.defstruct(
        "GatesFile", [*fields, ("rpc_seconds", _RpcSeconds, _DEFAULT_RPC_SECONDS)], forbid_unknown_fields=True
    )
    file: Any = check_settings(data, file_type, subject=where, strict=strict)
    values = {gate.name: getattr(file, gate.name) for gate in registry.GATES}
    return Gates({name: value for name, value in values.items() if _enabled(value)}, file.rpc_seconds)


def as_kept(gates: Gates, files: Mapping[str, str]) -> KeptGates:
    """Return `gates` as plain data; `files` are the digests of the files that they name."""
    options = {gate.name: to_builtins(options) for gate, options in gates.enabled()}
    return KeptGates(options, gates.rpc_seconds, dict(files))


def from_kept(kept: KeptGates) -> Gates:
    """Return the gates of `kept`; raise InvalidInput for those that this release does not know."""
    gates = gates_from({**kept.options, "rpc_seconds": kept.rpc_seconds}, where="The record of a validation's gates")
    # A gate that runs by default did not run then if it is not in the record.
    return Gates({name: gates.options[name] for name in kept.options}, gates.rpc_seconds)


def _enabled(options: object) -> bool:
    return options is not None and options is not False


def _field_type(gate: Gate[Any, Any]) -> Any:
    return gate.options if gate.default is not None else gate.options | None


def _with_paths(gate: Gate[Any, Any], options: Any, change: Callable[[str], str]) -> Any:
    paths = {name: change(value) for name in gate.paths if (value := getattr(options, name))}
    return msgspec.structs.replace(options, **paths) if paths else options
