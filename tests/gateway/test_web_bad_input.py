"""Bad requests: the right status, one sentence, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from gateway.gateways import KEY, PICTURES, Got, Running, form, is_problem, picture_version, png, run
from gateway.model_servers import Replica, version
from gateway.waiting import LONG, until

BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (b"{items: 1}", 400),
    "cut off": (b'{"items": [1', 400),
    "two documents": (b'{"item": 1} {"item": 2}', 400),
    "NaN": (b'{"item": NaN}', 400),
    "too large a number": (b'{"item": 1e999}', 400),
    "not UTF-8": (b'{"item": "\xff\xfe"}', 400),
    "UTF-16": ('{"item": 1}'.encode("utf-16"), 400),
    "half a surrogate pair": (b'{"item": "\\ud800"}', 400),
    "nested deeply": (b'{"item": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a list": (b"[1]", 400),
    "null": (b"null", 400),
    "nothing in it": (b"{}", 400),
    "both": (b'{"item": 1, "items": [1]}', 400),
    "an unknown member": (b'{"item": 1, "extra": 2}', 400),
    "items is no list": (b'{"items": {"0": 1}}', 400),
    "no items": (b'{"items": []}', 400),
    "too many items": (json.dumps({"items": [1] * 65}).encode(), 413),
    "a string for a number": (b'{"items": [1, "x"]}', 422),
    "null for a number": (b'{"items": [null]}', 422),
    "a boolean for a number": (b'{"items": [true]}', 422),
    "shapes that differ": (b'{"items": [1, [1]]}', 422),
    "an object": (b'{"items": [{"no": 1}]}', 422),
}


def test_bad_bodies_get_the_right_status_and_the_gateway_goes_on() -> None:
    async def ask(g: Running) -> None:
        for name, (body, status) in BODIES.items():
            got = await g.predict(body, Content_Type="application/json")
            assert is_problem(got, status), name
            assert (await g.predict({"item": 1})).status == 200, name

    run(ask, model={})


def test_the_item_that_cannot_be_used_is_named() -> None:
    got = run(lambda g: g.predict({"items": [1, 2, "x", 4]}), model={})
    assert is_problem(got, 422)
    assert got.json["item"] == 2
    assert "Item 2" in got.json["detail"]


FORMS: dict[str, tuple[bytes, str, int]] = {
    "no boundary": (b"", "multipart/form-data", 400),
    "nothing": (b"", "multipart/form-data; boundary=b", 400),
    "no form": (b"hello", "multipart/form-data; boundary=b", 400),
    "never ends": (form(("item", "a", b"x"))[0][:-20], form()[1], 400),
    "an unknown field": (*form(("picture", "a", b"x")), 400),
    "no fields": (*form(), 400),
    "item twice": (*form(("item", "a", png()), ("item", "b", png())), 400),
    "files and texts": (*form(("items", "a", png()), ("items", None, b"x")), 400),
    "not an image": (*form(("item", "a.png", b"hello")), 422),
    "truncated image": (*form(("item", "a.png", png(size=64)[:60])), 422),
    "a text for a picture": (*form(("item", None, b"hello")), 422),
    "a text that is not UTF-8": (*form(("item", None, b"\xff")), 400),
    "too many": (*form(*[("items", "a", b"")] * 65), 413),
    "far too many": (*form(*[("items", "a", b"")] * 300), 400),
}


def test_bad_forms_get_the_right_status() -> None:
    async def ask(g: Running) -> None:
        for name, (body, kind, status) in FORMS.items():
            assert is_problem(await g.predict(body, Content_Type=kind), status), name

    run(ask, Replica({1: picture_version()}, {"stable": 1}), model=PICTURES)


def test_other_kinds_of_body_are_refused() -> None:
    async def ask(g: Running) -> None:
        for headers in (
            {"Content_Type": "text/plain"},
            {"Content_Type": "image/png"},
            {"Content_Type": "application/json", "Content_Encoding": "gzip"},
        ):
            assert is_problem(await g.predict(b"{}", **headers), 415)
        assert b"415" in await g.raw(b"POST /v1/models/m HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    run(ask, model={})


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "inf", "1_0", "", "1 2"])
def test_a_time_that_is_none_is_refused(value: str) -> None:
    assert is_problem(run(lambda g: g.predict({"item": 1}, X_Request_Timeout=value), model={}), 400)


def test_paths_and_methods_that_are_not_served() -> None:
    async def ask(g: Running) -> None:
        for path in ("/nothing", "/v1/models/m/", "/v1//models/m", "/../etc/passwd", "/static/../app.py", "/static/x"):
            assert is_problem(await g.ask(path), 404)
        assert is_problem(await g.predict({"item": 1}, model="other"), 404)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            got = await g.ask("/v1/models/m", method, b"")
            assert is_problem(got, 405)
            assert got.headers["Allow"] == "GET, HEAD, POST"
        assert (await g.ask("/healthz", "POST", b"")).headers["Allow"] == "GET, HEAD"

    run(ask, model={})


def test_a_head_is_a_get_without_its_body() -> None:
    async def ask(g: Running) -> tuple[Got, Got]:
        return await g.ask("/v1/models", "HEAD"), await g.ask("/v1/models")

    head, get = run(ask, model={})
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(get.body)))


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    head = b"POST /v1/models/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"

    async def ask(g: Running) -> None:
        for more in (
            b"Content-Length: 999999999999\r\n\r\n",
            b"Content-Length: 999999999999\r\nExpect: 100-continue\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n" + b"19000\r\n" + b"x" * 0x19000 + b"\r\n",
        ):
            # It says so at once, and reads on for a while.
            got = await g.raw(head + more, enough=lambda got: got.endswith(b"}"))
            assert got.startswith(b"HTTP/1.1 413 "), got[:100]
            assert b"100 (Continue)" not in got
            assert json.loads(got.partition(b"\r\n\r\n")[2])["status"] == 413
        for length in (b"9" * 19, b"9" * 5000, b"-1", b"1x"):
            got = await g.raw(head + b"Content-Length: " + length + b"\r\n\r\n")
            assert got == b"HTTP/1.1 400 Bad Request\r\n\r\n"
        # A client that sends all of it, and only then reads, sees the answer.
        got = await g.ask("/v1/models/m", "POST", b"x" * 200_000, Content_Type="application/json")
        assert is_problem(got, 413)

    run(ask, model={}, limits={"body_mib": 0.05})


CHUNKED = b"HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
KEYED = b"X-API-Key: " + KEY.encode() + b"\r\n"
MODEL_PATH = b"POST /v1/models/m "
EARLY = [
    (b"POST /nope ", KEYED, 404),
    (b"POST /v1/models/other ", KEYED, 404),
    (b"PUT /v1/models/m ", KEYED, 405),
    (MODEL_PATH, b"", 401),
    (MODEL_PATH, KEYED + b"Content-Encoding: gzip\r\n", 415),
    (MODEL_PATH, KEYED + b"Content-Length: 999999\r\n", 413),
]


@pytest.mark.parametrize(("start", "headers", "status"), EARLY)
@pytest.mark.parametrize("late", [False, True])
def test_a_bad_chunk_after_an_early_answer_gets_no_second_one(
    tmp_path: Path, start: bytes, headers: bytes, status: int, late: bool
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"client:{KEY}\n")

    async def ask(g: Running) -> bytes:
        got = await g.raw(start + CHUNKED + headers + b"\r\n", b"5\r\nhello\r\nnot a size\r\n", late=late)
        return got

    got = run(ask, model={}, auth={"keys_file": str(keys)}, limits={"body_mib": 0.05})
    assert got.startswith(b"HTTP/1.1 %d " % status), got
    assert got.count(b"HTTP/1.1 ") == 1, got
    document = json.loads(got.partition(b"\r\n\r\n")[2])
    assert document["status"] == status


@pytest.mark.parametrize("body", [b"not a size\r\n", b"5\r\nhello??", b"0\r\nno end"])
def test_a_bad_chunk_of_a_request_that_is_taken_gets_one_400(body: bytes) -> None:
    async def ask(g: Running) -> Running:
        got = await g.raw(MODEL_PATH + CHUNKED + b"\r\n" + body)
        assert got == b"HTTP/1.1 400 Bad Request\r\n\r\n"
        return g

    assert [line["status"] for line in run(ask, model={}).lines()] == [400]


def test_a_chunk_beyond_the_limit_that_is_followed_by_a_bad_one_gets_one_413() -> None:
    large = b"19000\r\n" + b"x" * 0x19000 + b"\r\nnot a size\r\n"
    got = run(lambda g: g.raw(MODEL_PATH + CHUNKED + b"\r\n" + large), model={}, limits={"body_mib": 0.05})
    assert got.startswith(b"HTTP/1.1 413 "), got
    assert got.count(b"HTTP/1.1 ") == 1, got


def test_a_connection_goes_on_after_an_early_answer_to_a_whole_body() -> None:
    async def ask(g: Running) -> bytes:
        request = b"POST /nope " + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n"
        return await g.raw(request + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    got = run(ask, model={})
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"404", b"200"]


def test_a_mistake_of_a_processor_is_told_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    model = {"processor": {"name": "gateway.web_processors:Broken"}}
    got = run(lambda g: g.predict({"items": [1]}), model=model)
    assert is_problem(got, 500)
    assert "secret detail" not in got.body.decode()
    assert "secret detail" in caplog.text


def test_an_answer_that_is_not_json_is_told_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    model = {"processor": {"name": "gateway.web_processors:NotJson"}}
    got = run(lambda g: g.predict({"items": [1]}), model=model)
    assert is_problem(got, 500)
    assert "is not JSON" in caplog.text


def test_a_model_that_nobody_serves_is_unavailable_for_now() -> None:
    async def ask(g: Running) -> Got:
        return await g.predict({"item": 1})

    got = run(ask, Replica({1: version()}, {"other": 1}), model={}, retries={"seconds": 0.2})
    assert is_problem(got, 503)
    assert int(got.headers["Retry-After"]) >= 1


def test_a_model_that_comes_back_is_waited_for() -> None:
    replica = Replica()

    async def ask(g: Running) -> Got:
        await replica.stop()
        await until(lambda: g.asked() == {replica.target: False})
        asking = asyncio.ensure_future(g.predict({"item": 1}))
        await until(lambda: g.gateway.app.in_flight == 1)
        await asyncio.sleep(0.1)
        assert not asking.done()
        await replica.start()
        return await asking

    assert run(ask, replica, model={}, retries={"seconds": LONG}).status == 200


def test_more_requests_than_there_is_room_for_are_told_when_to_come_back() -> None:
    replica = Replica()

    async def ask(g: Running) -> list[Got]:
        replica.held = asyncio.Event()
        tasks = [asyncio.ensure_future(g.predict({"item": 1})) for _ in range(8)]
        await until(lambda: sum(task.done() for task in tasks) == 4 and replica.under_way == 2)
        replica.held.set()
        return await asyncio.gather(*tasks)

    answers = run(ask, replica, model={}, limits={"concurrency": 2, "queue": 2})
    by_status = sorted(got.status for got in answers)
    assert by_status == [200] * 4 + [429] * 4
    assert all(is_problem(got, 429) and int(got.headers["Retry-After"]) >= 1 for got in answers if got.status == 429)


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    replica = Replica()
    replica.delay = 600.0
    request = b"POST /v1/models/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"

    async def ask(g: Running) -> None:
        app = g.gateway.app
        for sent, here in ((b'{"item": 1}', lambda: replica.under_way == 1), (b'{"item"', lambda: app.in_flight == 1)):
            _, writer = await asyncio.open_connection("127.0.0.1", g.port)
            writer.write(request + sent)
            await until(here)
            writer.close()
            await until(lambda: (app.budget.held("m"), app.in_flight, replica.under_way) == (0, 0, 0))

    run(ask, replica, model={})


def test_an_address_inside_the_network_is_not_fetched() -> None:
    got = run(
        lambda g: g.predict({"item": {"url": "http://169.254.169.254/latest/meta-data"}}),
        Replica({1: picture_version()}, {"stable": 1}),
        model=PICTURES,
    )
    assert is_problem(got, 422)
    assert "169.254" not in got.json["detail"]
