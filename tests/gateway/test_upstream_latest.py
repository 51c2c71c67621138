"""Serving groups of mode `latest`: no labels, the highest version that is AVAILABLE answers."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from gateway.gateways import Running, run
from gateway.model_servers import Replica, ask, group, version, x
from gateway.waiting import until
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config_file import config_from
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.upstream.answer import NEWEST

LATEST = {"mode": "latest"}


def test_highest_version_answers_by_its_number() -> None:
    async def whole() -> None:
        replica = Replica({1: version(), 2: version()}, {})
        async with group(replica, model=LATEST) as upstream:
            assert await upstream.ready()
            answer = await ask(upstream, label=NEWEST)
            assert (answer.version, answer.label) == (2, NEWEST)
            assert [message.model_spec.version.value for message in replica.predicts] == [2]

    asyncio.run(whole())


def test_new_version_is_noticed_and_its_signature_is_what_counts() -> None:
    async def whole() -> None:
        replica = Replica({1: version((None,))}, {})
        async with group(replica, model=LATEST) as upstream:
            assert (await ask(upstream, label=NEWEST)).version == 1
            replica.configure({1: version((None,)), 2: version((None, 2, 2, 1))}, {})
            await until(lambda: (known := upstream.signature()) and known[0] == 2)
            before = len(replica.predicts)
            with pytest.raises(Problem, match="version 2 must have 4 dimensions"):
                await ask(upstream, label=NEWEST)
            assert len(replica.predicts) == before
            images = {"x": np.zeros((1, 2, 2, 1), np.float32)}
            assert (await ask(upstream, images, label=NEWEST)).version == 2

    asyncio.run(whole())


def test_version_that_is_replaced_is_not_missed() -> None:
    """`latest 1` unloads the old version when the new one is there; nobody asked in between."""

    async def whole() -> None:
        replica = Replica({1: version()}, {})
        health = {"interval_seconds": 600.0, "max_age_seconds": 600.0}
        async with group(replica, model=LATEST, health=health) as upstream:
            assert (await ask(upstream, label=NEWEST)).version == 1
            replica.configure({2: version()}, {})
            answer = await ask(upstream, x(3.0), label=NEWEST)
            assert (answer.version, answer.attempts) == (2, 1)

    asyncio.run(whole())


def test_whole_gateway_answers_without_a_label() -> None:
    async def asked(g: Running) -> Any:
        await until(g.ready)
        return (
            await g.predict({"item": 1.5}),
            (await g.ask("/v1/models/m")).json,
            (await g.ask("/openapi.json")).json,
            [(await g.ask(f"/v1/models/m/labels/{label}", "POST", {"item": 1})).status for label in ("stable", "")],
        )

    got, described, document, by_label = run(asked, Replica({3: version(), 7: version()}, {}), model=LATEST)
    assert got.json == {"model": "m", "version": 7, "result": 1.5}
    assert (got.headers["X-Model-Version"], got.headers.get("X-Model-Label")) == ("7", None)
    assert (described["version"], described["label"], described["labels"]) == (7, None, [])
    answer = document["paths"]["/v1/models/m"]["post"]["responses"]["200"]
    assert "X-Model-Label" not in answer["headers"]
    assert "label" not in answer["content"]["application/json"]["schema"]["properties"]
    assert by_label == [404, 404]
    assert list(document["paths"])[-1] == "/v1/models/m"


def test_nothing_loaded_is_told_without_speaking_of_a_label() -> None:
    async def whole() -> None:
        replica = Replica({1: version()}, {})
        async with group(replica, model=LATEST, retries={"seconds": 0.2}) as upstream:
            replica.fake._loaded.clear()
            await until(lambda: upstream.signature() is None)
            with pytest.raises(Problem, match=r"Model 'm' has no version at the moment;") as caught:
                await ask(upstream, label=NEWEST)
            assert caught.value.status == 503

    asyncio.run(whole())


@pytest.mark.parametrize(
    "more", [{"labels": ["canary"]}, {"label": "production"}, {"canary": {"percent": 5}}, {"shadow": {"percent": 5}}]
)
def test_what_goes_by_labels_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=rf"`models\.m\.{next(iter(more))}` needs labels"):
        config_from({"replicas": ["127.0.0.1:1"], "models": {"m": {**LATEST, **more}}})
