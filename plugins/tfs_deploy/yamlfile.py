"""Read a YAML (or JSON) file that a person wrote: small, plain data, and one sentence for each way it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tfs_deploy.errors import InvalidInput

# Far above what anybody writes by hand; a larger file is not what the path was meant to name.
_MAX_BYTES = 1 << 20


def read_yaml(path: Path, what: str) -> Any:
    """Return the data of `path`, which errors call `what`, None for an empty file; raise InvalidInput."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(f"The {what} {path} is over {_MAX_BYTES} bytes.", "Check the path.")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"There is no {what} {path}.", "Check the path.") from error
    except OSError as error:
        raise InvalidInput(f"The {what} {path} cannot be read: {error.strerror}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise InvalidInput(f"The {what} {path} is not YAML: {told}.", "Correct the file.") from error
