"""What an operator sees: health, numbers, logs, who may ask, and which pages may read."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from gateway.gateways import KEY, Running, gateway, is_problem, run, settings
from gateway.model_servers import Replica, version
from gateway.waiting import until
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import Auth
from tfs_deploy.gateway.main import Gateway
from tfs_deploy.gateway.web.auth import read_keys

# --- health ---------------------------------------------------------------------------------------------------------


def test_ready_means_that_stable_answers() -> None:
    replica = Replica({1: version()}, {"other": 1})

    async def ask(g: Running) -> list[int]:
        statuses = [(await g.ask("/readyz")).status]
        replica.configure({1: version()}, {"stable": 1})
        await until(g.ready)
        statuses.append((await g.ask("/readyz")).status)
        await replica.stop()
        await until(lambda: g.asked() == {replica.target: False})
        got = await g.ask("/readyz")
        assert is_problem(got, 503)
        statuses.append((await g.ask("/healthz")).status)
        return statuses

    assert run(ask, replica, model={}) == [503, 200, 200]


def test_a_model_that_goes_away_does_not_take_the_others_with_it() -> None:
    one, other = Replica(), Replica()

    async def ask(g: Running) -> None:
        await other.start()
        await until(g.ready)
        await other.stop()
        await until(lambda: not g.asked()[other.target])
        assert (await g.ask("/readyz")).json["answering"] == 1
        assert is_problem(await g.ask("/v1/models/b", "POST", {"item": 1}), 503)
        assert (await g.ask("/v1/models/a", "POST", {"item": 1})).status == 200

    async def whole() -> None:
        await other.start()
        target = other.target
        await other.stop()
        models = {"a": {"model": "m"}, "b": {"model": "m", "replicas": [target]}}
        async with gateway(one, models=models, retries={"seconds": 0.1}) as g:
            await ask(g)

    asyncio.run(whole())


def test_several_models_are_listed_with_what_they_take() -> None:
    models = {"a": {"model": "m", "description": "The first"}, "b": {"model": "m", "labels": ["canary"]}}
    listed = run(lambda g: g.ask("/v1/models"), models=models).json["models"]
    assert [(one["name"], one["version"], one["accepts"], one["labels"]) for one in listed] == [
        ("a", 1, "json", ["stable"]),
        ("b", 1, "json", ["stable", "canary"]),
    ]
    assert listed[0]["description"] == "The first"
    assert listed[0]["inputs"] == {"x": "DT_FLOAT [?]"}


# --- numbers and logs -----------------------------------------------------------------------------------------------


def _value(text: str, name: str, **labels: str) -> float:
    """Return one number of Prometheus' text."""
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == "tfs_deploy_gateway_" + name:
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if labels.items() <= given.items():
                return float(found[3])
    raise AssertionError(f"no {name} {labels} in {text}")


def test_numbers_are_told_by_model_version_status_and_stage() -> None:
    async def ask(g: Running) -> str:
        for item in (1, 2, "x"):
            await g.predict({"item": item})
        await g.ask("/nothing")
        got = await g.ask("/metrics")
        assert got.headers["Content-Type"].startswith("text/plain; version=")
        return got.body.decode()

    text = run(ask, model={"micro_batching": {}})
    assert _value(text, "requests_total", model="m", version="1", label="stable", status="200") == 2
    assert _value(text, "requests_total", model="m", status="422") == 1
    assert _value(text, "requests_total", model="", status="404") == 1
    for stage in ("read", "preprocess", "predict", "postprocess"):
        assert _value(text, "stage_seconds_count", model="m", version="1", stage=stage) == 2
    assert _value(text, "request_seconds_count", model="m", version="1") == 2
    assert _value(text, "batch_rows_count", model="m") == 2
    assert _value(text, "live_version", model="m", label="stable") == 1
    assert _value(text, "replica_asked", model="m") == 1
    assert _value(text, "requests_held", model="m") == 0
    assert _value(text, "connections") >= 1


def test_prometheus_itself_can_read_the_numbers() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = run(lambda g: g.ask("/metrics"), model={}).body.decode()
    assert "tfs_deploy_gateway_requests" in {family.name for family in text_string_to_metric_families(text)}


def test_every_request_is_a_line_of_json_without_its_secrets(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{KEY}\n")

    async def whole() -> list[dict[str, Any]]:
        async with gateway(model={}, auth={"keys_file": str(keys)}) as g:
            await g.predict({"item": 1}, Authorization=f"Bearer {KEY}", X_Request_Id="mine.1")
            await g.ask(f"/nothing?key={KEY}", X_Api_Key=KEY)
            await g.predict({"item": 1}, Authorization="Bearer wrong-key-of-enough-letters")
        assert KEY.encode() not in g.log.getvalue()
        assert b"wrong-key" not in g.log.getvalue()
        return g.lines()

    good, lost, refused = asyncio.run(whole())
    assert (good["request_id"], good["method"], good["path"], good["status"]) == ("mine.1", "POST", "/v1/models/m", 200)
    assert (good["client"], good["model"], good["version"], good["label"]) == ("alice", "m", 1, "stable")
    assert good["stages_ms"]["predict"] > 0
    assert good["ms"] >= good["stages_ms"]["predict"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good["time"])
    assert (lost["path"], lost["status"]) == ("/nothing", 404)
    assert (refused["status"], "client" in refused) == (401, False)


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("a" * 65, False), ("a b", False), ("a;b", False)])
def test_a_request_id_is_kept_if_it_is_a_plain_one(given: str, kept: bool) -> None:
    replica = Replica()
    got = run(lambda g: g.predict({"item": 1}, X_Request_Id=given), replica, model={})
    assert (got.headers["X-Request-Id"] == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._\-]{1,64}", got.headers["X-Request-Id"])


# --- who may ask ----------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_but_health_and_the_page_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n\nalice:{KEY}\n")
    monkeypatch.setenv("MORE_KEYS", "another-key-of-enough-letters, bob:a-third-key-of-enough-letters")

    async def ask(g: Running) -> None:
        for path in ("/healthz", "/readyz", "/", "/static/page.js"):
            assert (await g.ask(path)).status == 200, path
        for path in ("/metrics", "/openapi.json", "/v1/models", "/v1/models/m", "/v1/models/other"):
            got = await g.ask(path)
            assert is_problem(got, 401)
            assert got.headers["WWW-Authenticate"].startswith("Bearer ")
        assert is_problem(await g.predict({"item": 1}), 401)
        for wrong in (KEY + "x", KEY[:-1], "", "alice", f"alice:{KEY}"):
            assert is_problem(await g.predict({"item": 1}, Authorization=f"Bearer {wrong}"), 401)
        assert is_problem(await g.predict({"item": 1}, Authorization=f"Basic {KEY}"), 401)
        for right in (KEY, "another-key-of-enough-letters", "a-third-key-of-enough-letters"):
            assert (await g.predict({"item": 1}, Authorization=f"Bearer {right}")).status == 200
            assert (await g.predict({"item": 1}, X_Api_Key=right)).status == 200

    run(ask, model={}, auth={"keys_file": str(keys), "keys_env": "MORE_KEYS"})


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "alice:short\n", "a b:" + KEY, "ä" * 20])
def test_keys_that_protect_nothing_are_refused_and_never_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_keys(Auth(keys_file=str(file)))
    assert "short" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_keys_file_that_is_too_large_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("#" * ((1 << 20) - 21) + "\n" + KEY[:20] + "-the-rest\n")
    with pytest.raises(InvalidInput, match="more than 1048576 bytes"):
        read_keys(Auth(keys_file=str(file)))


def test_keys_that_are_not_there_are_refused() -> None:
    with pytest.raises(InvalidInput, match="NOT_SET"):
        read_keys(Auth(keys_env="NOT_SET"), {})
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_keys(Auth(keys_file="/nonexistent/keys"))


def test_a_gateway_that_others_can_reach_needs_keys_or_says_that_it_is_open() -> None:
    with pytest.raises(InvalidInput, match=r"auth\.keys_file"):
        settings("127.0.0.1:1", listen={"address": "0.0.0.0"})
    assert settings("127.0.0.1:1", listen={"address": "0.0.0.0"}, models={"m": {}}, auth={"open": True})


def test_a_port_that_is_taken_is_told_in_a_sentence() -> None:
    async def ask(g: Running) -> None:
        taken = Gateway(settings("127.0.0.1:1", models={"m": {}}, listen={"port": g.port}))
        with pytest.raises(InvalidInput, match="cannot be bound"):
            await taken.start()
        await taken.stop(quiet=0.0)

    run(ask, model={})


# --- other origins --------------------------------------------------------------------------------------------------

ORIGIN = "https://app.example"


def test_pages_of_the_named_origins_may_read_answers_and_send_the_headers_they_need() -> None:
    asks = {"Origin": ORIGIN, "Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "x-api-key"}

    async def ask(g: Running) -> None:
        before = await g.ask("/v1/models/m", "OPTIONS", b"", **asks)
        assert (before.status, before.body) == (204, b"")
        assert before.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "POST" in before.headers["Access-Control-Allow-Methods"]
        assert {"X-API-Key", "X-User"} <= set(before.headers["Access-Control-Allow-Headers"].split(", "))
        assert is_problem(await g.ask("/nothing", "OPTIONS", b"", **asks), 404)
        answer = await g.predict({"item": 1}, Origin=ORIGIN)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "X-Model-Version" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"
        problem = await g.predict({"item": "x"}, Origin=ORIGIN)
        assert problem.headers["Access-Control-Allow-Origin"] == ORIGIN
        for other in ("https://evil.example", "null", ORIGIN + ".evil.example"):
            refused = await g.predict({"item": 1}, Origin=other)
            assert "Access-Control-Allow-Origin" not in refused.headers
            assert is_problem(await g.ask("/v1/models/m", "OPTIONS", b"", **{**asks, "Origin": other}), 405)

    run(ask, model={"canary": {"sticky_header": "X-User"}}, cors={"origins": [ORIGIN]})


def test_any_origin_may_be_allowed() -> None:
    got = run(lambda g: g.predict({"item": 1}, Origin=ORIGIN), model={}, cors={"origins": ["*"]})
    assert got.headers["Access-Control-Allow-Origin"] == "*"


# --- TLS and limits -------------------------------------------------------------------------------------------------


def test_tls_is_spoken_and_nothing_below_1_2(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate))
    old = ssl.create_default_context(cafile=str(certificate))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def ask(g: Running) -> None:
        assert g.url.startswith("https://")
        client = SimpleAsyncHTTPClient(force_instance=True)
        got = await client.fetch(HTTPRequest(g.url + "/healthz", ssl_options=trust))
        assert got.code == 200
        assert "Strict-Transport-Security" in got.headers
        with pytest.raises(ssl.SSLError):
            await client.fetch(HTTPRequest(g.url + "/healthz", ssl_options=old))

    run(ask, model={}, listen={"tls": {"certificate": str(certificate), "key": str(key)}})


def test_a_certificate_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    certificate, _ = _certificate(tmp_path)
    tls = {"certificate": str(certificate), "key": str(tmp_path / "none")}
    with pytest.raises(InvalidInput, match="cannot be used"):
        Gateway(settings("127.0.0.1:1", models={"m": {}}, listen={"tls": tls}))


def test_connections_over_the_limit_are_closed_and_the_others_stay() -> None:
    async def ask(g: Running) -> tuple[bytes, int]:
        held = [await asyncio.open_connection("127.0.0.1", g.port) for _ in range(3)]
        await until(lambda: g.gateway._listener.connections == 3)
        over = await g.raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        reader, writer = held[0]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await reader.readline()
        for _, writer in held:
            writer.close()
        await until(lambda: g.gateway._listener.connections == 0)
        return over + b"|" + answer, (await g.ask("/healthz")).status

    told, later = run(ask, model={}, limits={"connections": 3})
    assert told == b"|HTTP/1.1 200 OK\r\n"
    assert later == 200


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfs_deploy.gateway.web.app import Application

    monkeypatch.setattr(Application, "body_seconds", 0.2)
    head = b"POST /v1/models/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    got = run(lambda g: g.raw(head, enough=lambda got: got.endswith(b"}")), model={})
    assert got.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_its_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfs_deploy.gateway.web import server

    monkeypatch.setattr(server, "_WRITE_SECONDS", 0.3)
    replica = Replica({1: version((None, None))}, {"stable": 1})
    # More than the buffers of two sockets take.
    body = json.dumps({"items": [[0.12345678] * 400_000] * 2}).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def ask(g: Running) -> tuple[int, int]:
        with socket.create_connection(("127.0.0.1", g.port)) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.setblocking(False)
            head_and_body = b"POST /v1/models/m HTTP/1.1\r\nHost: a\r\n" + head + body
            await asyncio.get_running_loop().sock_sendall(stuck, head_and_body)
            await until(lambda: not g.gateway._listener.connections)
            return g.gateway._listener.connections, g.gateway.app.in_flight

    assert run(ask, replica, model={}) == (0, 0)


def test_bodies_of_all_requests_together_are_bounded() -> None:
    from tfs_deploy.gateway.config import Limits
    from tfs_deploy.gateway.problem import Problem
    from tfs_deploy.gateway.web.message import RequestBudget

    budget = RequestBudget(Limits(body_mib=1.0))
    permits = [budget.acquire("m") for _ in range(33)]
    for permit in permits[:32]:
        permit.reserve(1 << 20)
    with pytest.raises(Problem, match="429"):
        permits[32].reserve(1)
    permits[0].release()
    permits[0].release()
    permits[32].reserve(1)
    assert budget.held("m") == 32


def _certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, file = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, file
