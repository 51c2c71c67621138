"""The command line on a serving group in memory: two fake model servers, a real directory store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.desk import TARGETS, Desk, behave
from fakes import AsyncFakeClient, FakeClient, FakeModelServer


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TFS_DEPLOY_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    servers = {target: FakeModelServer(target, discover=behave) for target in TARGETS}
    monkeypatch.setattr(
        "tfs_deploy.deployment.session.connect", lambda target, **options: FakeClient(servers[target], target)
    )
    monkeypatch.setattr(
        "tfs_deploy.deployment.session.connect_aio", lambda target, **options: AsyncFakeClient(servers[target], target)
    )
    store = tmp_path / "store"
    store.mkdir()
    return Desk(tmp_path, servers, store)
