"""The fake engine keeps the promises of an engine, so tests on it mean something."""

from __future__ import annotations

import pytest

from contract.container_engine_suite import ContainerEngineSuite
from fake_engine import FakeEngine


class TestFakeEngine(ContainerEngineSuite):
    @pytest.fixture
    def engine(self) -> FakeEngine:
        return FakeEngine()

    @pytest.fixture
    def image(self) -> str:
        return "server:1"
