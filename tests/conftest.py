"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The SavedModels that this project did not write; they stand beside a checkout in CI."""
    models = REPOSITORY.parent / "shared" / "models"
    if not models.is_dir():
        pytest.skip("the SavedModels of ../shared/models are not beside this checkout")
    return models
