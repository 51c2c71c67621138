"""Requests for a model, and what they are answered with."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gateway.gateways import PICTURES, Got, Running, form, is_problem, picture_version, png, run
from gateway.model_servers import Replica, version
from gateway.waiting import until


def test_a_batch_is_answered_in_its_order_by_a_named_version() -> None:
    got = run(lambda g: g.predict({"items": [1.5, -2, 3]}), model={})
    assert got.status == 200
    assert got.json == {"model": "m", "version": 1, "label": "stable", "results": [1.5, -2.0, 3.0]}
    assert (got.headers["X-Model-Name"], got.headers["X-Model-Version"], got.headers["X-Model-Label"]) == (
        "m",
        "1",
        "stable",
    )
    assert "predict;dur=" in got.headers["Server-Timing"]


def test_one_item_is_answered_by_one_result() -> None:
    assert run(lambda g: g.predict({"item": 4}), model={}).json["result"] == 4.0


@pytest.mark.parametrize("single", [True, False])
def test_pictures_come_as_uploads_and_as_base64(single: bool) -> None:
    bright, dark = png(255), png(0)

    async def ask(g: Running) -> list[Got]:
        name = "item" if single else "items"
        parts = [(name, "a.png", bright)] if single else [(name, "a.png", bright), (name, "b.png", dark)]
        body, kind = form(*parts)
        items = [{"b64": base64.b64encode(one).decode()} for one in (bright, dark)]
        as_json = {"item": items[0]} if single else {"items": items}
        return [await g.predict(body, Content_Type=kind), await g.predict(as_json)]

    for got in run(ask, Replica({7: picture_version()}, {"stable": 7}), model=PICTURES):
        assert got.status == 200, got.json
        assert got.json["version"] == 7
        results = [got.json["result"]] if single else got.json["results"]
        assert [result["label"] for result in results] == (["one"] if single else ["one", "zero"])
        assert results[0]["score"] == 1.0


def test_an_item_may_have_bytes_one_level_down() -> None:
    strings = version((None,), dtype="DT_STRING")
    model = {"processor": {"name": "tensors", "options": {"blobs": True}}}
    got = run(
        lambda g: g.predict({"item": {"x": {"b64": base64.b64encode(b"text").decode()}}}),
        Replica({1: strings}, {"stable": 1}),
        model=model,
    )
    assert got.json["result"] == "text"


def test_texts_come_in_a_form_too() -> None:
    strings = version((None,), dtype="DT_STRING")
    model = {"processor": {"name": "text", "options": {"input": "x", "encode": "strings", "lowercase": False}}}
    body, kind = form(("items", None, "Grüße".encode()), ("items", None, b"two"))
    got = run(lambda g: g.predict(body, Content_Type=kind), Replica({1: strings}, {"stable": 1}), model=model)
    assert got.json["results"] == ["Grüße", "two"]


def test_a_named_label_answers_where_the_configuration_allows_it() -> None:
    versions = {1: version(), 2: version(function=lambda arrays: {"y": arrays["x"] * 10})}

    async def ask(g: Running) -> list[Got]:
        return [
            await g.ask(f"/v1/models/m/labels/{label}", "POST", {"item": 1}) for label in ("stable", "canary", "other")
        ]

    stable, canary, other = run(ask, Replica(versions, {"stable": 1, "canary": 2}), model={"labels": ["canary"]})
    assert (stable.json["version"], stable.json["result"]) == (1, 1.0)
    assert (canary.json["version"], canary.json["result"], canary.json["label"]) == (2, 10.0, "canary")
    assert is_problem(other, 404)


def test_items_of_different_shapes_are_one_predict_each_and_one_version_answers_all() -> None:
    replica = Replica({1: version((None, None))}, {"stable": 1})
    model = {"processor": {"name": "tensors", "options": {"batches": False}}}
    got = run(lambda g: g.predict({"items": [[1], [1, 2], [1, 2, 3]]}), replica, model=model)
    assert got.json["results"] == [[1.0], [1.0, 2.0], [1.0, 2.0, 3.0]]
    assert len(replica.predicts) == 3


def test_a_label_that_moves_between_the_batches_of_one_request_does_not_mix_versions() -> None:
    versions = {1: version((None, None)), 2: version((None, None), function=lambda a: {"y": a["x"] * 10})}
    replica = Replica(versions, {"stable": 1})
    seen = []

    def move() -> None:
        seen.append(None)
        if len(seen) == 2:
            replica.configure(versions, {"stable": 2})

    replica.on_predict = move
    model = {"processor": {"name": "tensors", "options": {"batches": False}}}
    got = run(lambda g: g.predict({"items": [[1], [1, 2], [3, 4, 5]]}), replica, model=model)
    assert got.status == 200
    factor = {1: 1.0, 2: 10.0}[got.json["version"]]
    assert got.json["results"] == [[factor], [factor, 2 * factor], [3 * factor, 4 * factor, 5 * factor]]


def test_a_canary_that_goes_away_between_the_batches_of_one_request_costs_nothing() -> None:
    versions = {1: version((None, None)), 2: version((None, None), function=lambda a: {"y": a["x"] * 10})}
    replica = Replica(versions, {"stable": 1, "canary": 2})
    seen = []

    def unload() -> None:
        seen.append(None)
        if len(seen) == 2:
            replica.configure({1: versions[1]}, {"stable": 1})

    replica.on_predict = unload
    model = {
        "processor": {"name": "tensors", "options": {"batches": False}},
        "canary": {"label": "canary", "percent": 100},
    }
    got = run(lambda g: g.predict({"items": [[1], [1, 2]]}), replica, model=model)
    # Both batches may have been under way when it went; never are the two versions mixed.
    factor = {("stable", 1): 1.0, ("canary", 2): 10.0}[got.json["label"], got.json["version"]]
    assert got.json["results"] == [[factor], [factor, 2 * factor]]


def test_the_clients_time_reaches_the_model_server() -> None:
    replica = Replica()
    replica.delay = 600.0

    async def ask(g: Running) -> Got:
        got = await g.predict({"item": 1}, X_Request_Timeout="0.3")
        await until(lambda: replica.under_way == 0)
        return got

    assert is_problem(run(ask, replica, model={}), 504)
    assert not replica.predicts


def test_nothing_is_sent_that_does_not_fit_the_signature() -> None:
    replica = Replica({1: version((None, 2))}, {"stable": 1})
    model = {"processor": {"name": "tensors", "options": {"inputs": {"x": {"dtype": "float32"}}}}}
    got = run(lambda g: g.predict({"items": [[1, 2, 3]]}), replica, model=model)
    assert is_problem(got, 422)
    assert not replica.predicts


def test_values_of_numpy_in_the_answer_of_a_users_processor_are_plain_json() -> None:
    model = {"processor": {"name": "gateway.web_processors:Numpy"}}
    assert run(lambda g: g.predict({"items": [1]}), model=model).json["results"] == [{"a": [1.0, 2.0], "b": 3}]


def test_urls_are_fetched_for_processors_that_take_bytes() -> None:
    from tfs_deploy.gateway.problem import unusable
    from tfs_deploy.gateway.processors.protocol import Blob

    class Fetches:
        async def fetch(self, url: str, *, deadline: float, item: int | None = None) -> Blob:
            if "bad" in url:
                raise unusable(f"The URL of item {item} cannot be read.", item=item)
            return Blob(png(255 if "bright" in url else 0), "image/png", "a")

        def close(self) -> None:
            pass

    async def ask(g: Running) -> tuple[Got, Got, Got, Got]:
        return (
            await g.predict({"items": [{"url": "http://a/bright"}, {"url": "http://a/dark"}]}),
            await g.predict({"items": [{"url": "http://a/bright"}, {"url": "http://a/bad"}]}),
            await g.predict({"items": [{"url": 1}]}),
            await g.predict({"items": [{"url": "http://a/bright", "b64": ""}]}),
        )

    good, bad, number, both = run(
        ask, Replica({1: picture_version()}, {"stable": 1}), model=PICTURES, fetcher=Fetches()
    )
    assert [result["label"] for result in good.json["results"]] == ["one", "zero"]
    assert is_problem(bad, 422)
    assert bad.json["item"] == 1
    assert is_problem(number, 422)
    assert is_problem(both, 422)


def test_arrays_that_are_sent_are_those_of_the_items() -> None:
    replica = Replica()
    run(lambda g: g.predict({"items": [1, 2, 3]}), replica, model={"micro_batching": {"max_rows": 8, "wait_ms": 1}})
    (request,) = replica.predicts
    assert np.frombuffer(request.inputs["x"].tensor_content, np.float32).tolist() == [1.0, 2.0, 3.0]
