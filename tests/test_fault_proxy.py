"""The proxy forwards what it does not let fail, and some faults come after the server has acted."""

from __future__ import annotations

from collections import Counter

import pytest

from fault_proxy import FaultProxy
from tfs_deploy.errors import NotFound, Transient
from tfs_deploy.serving.client import connect
from traffic.servers import MODEL, slow_servers


def test_without_faults_it_is_the_server_itself():
    with (
        slow_servers() as servers,
        FaultProxy(next(iter(servers)), share=0.0, seed=1).serve() as target,
        connect(target) as client,
    ):
        assert client.metadata(MODEL, label="stable", timeout=30.0).version == 1
        assert [row.version for row in client.status(MODEL, timeout=30.0)] == [3, 2, 1]
        with pytest.raises(NotFound, match="Unrecognized servable version label: nowhere"):
            client.metadata(MODEL, label="nowhere", timeout=30.0)


def test_a_share_of_the_calls_fails_before_or_after_the_server_has_acted():
    with slow_servers() as servers:
        ((backend, server),) = servers.items()
        asked = len(server.requests)
        proxy = FaultProxy(backend, share=0.5, seed=1)
        with proxy.serve() as target, connect(target) as client:
            ends: Counter[str] = Counter()
            for _ in range(200):
                try:
                    client.status(MODEL, timeout=30.0)
                    ends["answered"] += 1
                except Transient:
                    ends["failed"] += 1
        acted = len(server.requests) - asked
    assert proxy.calls == {"GetModelStatus": 200}
    assert proxy.faults["GetModelStatus"] == ends["failed"]
    assert 60 < ends["failed"] < 140
    assert ends["answered"] < acted < 200, "some answers were lost, and some requests"
