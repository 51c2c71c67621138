"""The end: /readyz fails first, what runs is answered, then the process ends with 0."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from tornado.simple_httpclient import HTTPStreamClosedError

from gateway.gateways import HEALTH, PICTURES, Got, Running, form, gateway, is_problem, picture_version, png
from gateway.model_servers import Replica
from gateway.waiting import LONG, ended, until
from gateway.web_processors import Long


def test_requests_that_run_are_answered_and_new_ones_find_another_gateway() -> None:
    async def whole() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        # Half of the drain's time is for clients that have not heard of it yet.
        async with gateway(replica, model={}, limits={"drain_seconds": 4 * LONG}) as g:
            running = [asyncio.ensure_future(g.predict({"item": number})) for number in range(5)]
            await until(lambda: replica.under_way == 5)
            stopping = asyncio.ensure_future(g.gateway.stop(quiet=3.0))
            await until(lambda: g.gateway.app.health.draining)
            ready = await g.ask("/readyz")
            assert is_problem(ready, 503)
            assert ready.headers["Connection"] == "close"
            assert (await g.ask("/healthz")).status == 200
            late = asyncio.ensure_future(g.predict({"item": 9}))
            await until(lambda: replica.under_way == 6)
            replica.held.set()
            assert (await late).status == 200
            answers: list[Got] = await asyncio.gather(*running)
            assert [got.json["result"] for got in answers] == [0.0, 1.0, 2.0, 3.0, 4.0]
            assert await stopping
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", g.port)

    asyncio.run(whole())


def test_whoever_asks_how_the_gateway_is_does_not_hold_up_its_end() -> None:
    """A load balancer asks more often than the time for which it must be quiet, and goes on to the end."""

    async def whole() -> None:
        async with gateway(model={}, limits={"drain_seconds": 4 * LONG}) as g:

            async def ask_on() -> None:
                with contextlib.suppress(AssertionError, OSError, HTTPStreamClosedError):
                    while True:
                        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
                            await g.ask(path)

            asking = asyncio.ensure_future(ask_on())
            # Half of the drain's time would go by, which is twice as long as this waits.
            assert await ended(g.gateway.stop(quiet=1.0))
            await ended(asking)

    asyncio.run(whole())


def test_what_takes_longer_than_the_drain_is_cut_off_and_told() -> None:
    async def whole() -> None:
        replica = Replica()
        replica.delay = 600.0
        async with gateway(replica, model={}, limits={"drain_seconds": 0.6, "timeout_seconds": 600.0}) as g:
            running = asyncio.ensure_future(g.predict({"item": 1}))
            await until(lambda: replica.under_way == 1)
            assert not await ended(g.gateway.stop(quiet=0.1))
            with pytest.raises(HTTPStreamClosedError):
                await running

    asyncio.run(whole())


def test_an_answer_that_is_being_read_is_not_cut_off() -> None:
    async def whole() -> None:
        model = {"processor": {"name": "gateway.web_processors:Long"}}
        async with gateway(model=model, limits={"drain_seconds": 2 * LONG}) as g:
            app = g.gateway.app
            client = socket.create_connection(("127.0.0.1", g.port))
            client.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=client, limit=1 << 16)
            body = b'{"item": 1}'
            head = f"POST /v1/models/m HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            assert (await ended(reader.readline())).startswith(b"HTTP/1.1 200")
            # It takes memory as long as its client reads.
            assert (app.in_flight, app.budget.held("m")) == (1, 1)
            stopping = asyncio.ensure_future(g.gateway.stop(quiet=0.0))
            await until(lambda: app.refusing)
            assert not stopping.done()
            got = await ended(reader.read(-1))
            assert len(got) > Long.SIZE
            assert await ended(stopping)
            assert (app.in_flight, app.budget.held("m")) == (0, 0)
            writer.close()

    asyncio.run(whole())


async def program(
    folder: Path, config: dict[str, object], module: str, *command: str, stdout: int
) -> asyncio.subprocess.Process:
    """Start a program of the gateway on `config`; its standard error is a pipe."""
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(config))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *command, "--config", str(file)),
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_drains_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    async def whole() -> None:
        replica = Replica({4: picture_version()}, {"stable": 4})
        await replica.start()
        model = {**PICTURES, "processor": {**PICTURES["processor"], "in_pool": True}}
        config = {"replicas": [replica.target], "listen": {"port": 0}, "health": HEALTH, "models": {"m": model}}
        config["pool"] = {"workers": 1, "timeout_seconds": LONG}
        config["limits"] = {"timeout_seconds": LONG}
        process = await program(tmp_path, config, "tfs_deploy.cli", "gateway", stdout=asyncio.subprocess.PIPE)
        try:
            await _drain(process, replica, number)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await replica.stop()

    asyncio.run(whole())


async def _drain(process: asyncio.subprocess.Process, replica: Replica, number: signal.Signals) -> None:
    assert process.stderr is not None
    assert process.stdout is not None
    told = ""
    while not (found := re.search(r"Serving m on http://127\.0\.0\.1:(\d+)", told)):
        line = await asyncio.wait_for(process.stderr.readline(), 60.0)
        assert line, told
        told += line.decode()

    class Elsewhere(Running):
        url = f"http://127.0.0.1:{found[1]}"

    g = Elsewhere(None, None)  # type: ignore[arg-type]
    body, kind = form(("item", "a.png", png()))
    assert (await g.predict(body, Content_Type=kind)).json["result"]["label"] == "one"
    replica.held = asyncio.Event()
    running = asyncio.ensure_future(g.predict(body, Content_Type=kind))
    await until(lambda: replica.under_way == 1)
    process.send_signal(number)
    while b"Draining" not in await asyncio.wait_for(process.stderr.readline(), LONG):
        pass
    replica.held.set()
    got = await running
    assert got.status == 200
    out, error = await asyncio.wait_for(process.communicate(), LONG)
    assert process.returncode == 0, error.decode()
    assert b"every request was answered" in error
    assert b"Traceback" not in error
    assert [json.loads(line)["status"] for line in out.splitlines()] == [200, 200]


def test_a_second_signal_ends_the_program_at_once_and_tells_that_somebody_was_cut_off(tmp_path: Path) -> None:
    async def whole() -> None:
        replica = Replica()
        replica.held = asyncio.Event()
        await replica.start()
        config = {"replicas": [replica.target], "listen": {"port": 0}, "health": HEALTH, "models": {"m": {}}}
        config["limits"] = {"timeout_seconds": 600.0, "drain_seconds": 600.0}
        process = await program(tmp_path, config, "tfs_deploy.gateway", stdout=asyncio.subprocess.DEVNULL)
        try:
            assert process.stderr is not None
            told = await ended(process.stderr.readuntil(b"Serving m on "))
            address = (await ended(process.stderr.readline())).decode().strip()

            class Elsewhere(Running):
                url = address

            running = asyncio.ensure_future(Elsewhere(None, None).predict({"item": 1}))  # type: ignore[arg-type]
            await until(lambda: replica.under_way == 1)
            process.send_signal(signal.SIGTERM)
            await ended(process.stderr.readuntil(b"Draining"))
            process.send_signal(signal.SIGTERM)
            assert await ended(process.wait()) == 1, told
            await ended(asyncio.gather(running, return_exceptions=True))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await replica.stop()

    asyncio.run(whole())


def test_the_program_refuses_a_configuration_that_cannot_be_served(tmp_path: Path) -> None:
    async def whole() -> tuple[int | None, bytes]:
        file = tmp_path / "gateway.yaml"
        file.write_text("replicas: [127.0.0.1:1]\nlisten: {address: 0.0.0.0}\nmodels: {m: {}}\n")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tfs_deploy.gateway", "--config", str(file)), stderr=asyncio.subprocess.PIPE
        )
        _, error = await asyncio.wait_for(process.communicate(), 60.0)
        return process.returncode, error

    code, error = asyncio.run(whole())
    assert code == 2
    assert error.startswith(b"tfs-deploy gateway: ")
    assert b"auth.keys_file" in error
    assert error.count(b"\n") == 1
