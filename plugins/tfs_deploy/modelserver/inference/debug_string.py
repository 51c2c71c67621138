"""Prints a message as C++ protobuf's ``DebugString`` does, which TF Serving puts into error messages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from google.protobuf import text_format

# A line with a number of one of TensorProto's lists; within text there are no line breaks, they are escaped.
_NUMBER = re.compile(r"^( *(?P<list>float_val|scomplex_val|double_val|dcomplex_val): )(?P<value>.+)$", re.MULTILINE)
_FLOAT_LISTS = ("float_val", "scomplex_val")


def debug_string(message: Any) -> str:
    """Return `message` as text: octal escapes for what is not ASCII, numbers as C++ prints them (``0`` for 0.0)."""
    text = text_format.MessageToString(message, as_utf8=False)
    return _NUMBER.sub(lambda found: found[1] + _number(float(found["value"]), found["list"] in _FLOAT_LISTS), text)


def _number(shown: float, single: bool) -> str:
    """Return a number with 6 digits (15 for a double) where those give it back, else with 9 (17)."""
    kind, few, many = (np.float32, 6, 9) if single else (np.float64, 15, 17)
    value = kind(shown)
    short = f"{value:.{few}g}"
    return short if np.isnan(value) or kind(float(short)) == value else f"{value:.{many}g}"
