"""Reads the text protobuf files that flags and versions name, with TF Serving's errors for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pool import DescriptorPool

from tfs_deploy.modelserver.status import invalid_argument, of_os_error


def read(path: str | Path, message: Any, pool: DescriptorPool | None = None) -> Any:
    """Fill `message` from a text file and return it; raise NOT_FOUND without it, INVALID_ARGUMENT for any other text.

    The parser's complaint is left out of the error and not chained to it: it may quote a line of a private key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise of_os_error(error) from error
    except UnicodeDecodeError:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
    if not text:  # TensorFlow maps the file into memory, and nothing of no length can be mapped
        raise invalid_argument(f"{path}; Invalid argument")
    try:
        return text_format.Parse(text, message, descriptor_pool=pool)
    except text_format.ParseError:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
