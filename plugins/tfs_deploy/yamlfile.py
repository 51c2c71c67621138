"""Read and check settings that a person wrote: a YAML (or JSON) file, or plain data from elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import yaml

from tfs_deploy.errors import InvalidInput

T = TypeVar("T")

# Far above the size of a file that is written by hand; a larger one is a wrong path.
_MAX_BYTES = 1 << 20


def read_yaml(path: Path, kind: str) -> Any:
    """Return the data of `path`, None for an empty file; raise InvalidInput, which calls the file `kind`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(f"The {kind} {path} is over {_MAX_BYTES} bytes.", "Check the path.")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"There is no {kind} {path}.", "Check the path.") from error
    except OSError as error:
        raise InvalidInput(f"The {kind} {path} cannot be read: {error.strerror}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise InvalidInput(f"The {kind} {path} is not YAML: {problem}.", "Correct the file.") from error


def check_settings(data: object, type_: type[T], *, subject: str, remedy: str = "", strict: bool = True) -> T:
    """Return `data` (dicts and lists) as a msgspec Struct; raise InvalidInput that names `subject` and the key.

    The remedy lists the known keys unless one is given. Without `strict`, text is read as the number or switch that it
    spells ("0.9").
    """
    try:
        return msgspec.convert(data, type=type_, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{subject} does not fit: {error}.", remedy or f"Known keys: {', '.join(known_keys(type_))}."
        ) from error


def known_keys(type_: Any) -> list[str]:
    """Return the keys of a Struct in their order, ``tls{private_key, ...}`` for one that holds another Struct."""
    return [field.encode_name + _values_of(field.type) for field in msgspec.structs.fields(type_)]


def _values_of(type_: Any) -> str:
    for part in (type_, *get_args(type_)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return f"{{{', '.join(known_keys(part))}}}"
        if isinstance(part, type) and issubclass(part, Enum):
            return f" ({' or '.join(str(member.value) for member in part)})"
    return ""
