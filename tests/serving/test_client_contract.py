"""One suite against the sync client, the asyncio client and the in-memory fake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from contract.serving_client_suite import ServingClientSuite, loaded, model
from fakes import FakeClient, FakeModelServer, FakeVersion
from serving.grpc_front import serve
from tfs_deploy.serving import client

__all__ = ["loaded", "model"]  # fixtures of the suite


class Served:
    def __init__(self, server: FakeModelServer, client: Any) -> None:
        self._server = server
        self.client = client

    def base_path(self, model: str) -> str:
        return f"/models/{model}"

    def put(self, model: str, version: int, *, broken: bool = False) -> None:
        content = FakeVersion(broken="LOADERR") if broken else FakeVersion()
        self._server.put(self.base_path(model), version, content)

    def settle(self, model: str, version: int) -> None:
        assert self._server.state(model, version) in ("AVAILABLE", "END")


class Blocking:
    """The asyncio client with the methods of the sync one."""

    def __init__(self, target: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = client.connect_aio(target)
        self.target = self._client.target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def end(self) -> None:
        self.close()
        self._loop.close()


class TestFakeClient(ServingClientSuite):
    @pytest.fixture
    def serving(self) -> Served:
        server = FakeModelServer()
        return Served(server, FakeClient(server))


class TestSyncClient(ServingClientSuite):
    @pytest.fixture
    def serving(self) -> Iterator[Served]:
        server = FakeModelServer()
        with serve(server) as target, client.connect(target) as connected:
            yield Served(server, connected)


class TestAsyncClient(ServingClientSuite):
    @pytest.fixture
    def serving(self) -> Iterator[Served]:
        server = FakeModelServer()
        with serve(server) as target:
            blocking = Blocking(target)
            yield Served(server, blocking)
            blocking.end()
