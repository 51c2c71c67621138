"""Where the store tests put what is printed at the end of the run."""

from __future__ import annotations

import pytest

SUMMARIES = pytest.StashKey[list[str]]()
