"""What one URL may cost: bytes, time and connections, whatever its server does."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.fetching_world import PICTURE, World, on_the_web
from gateway.waiting import LONG, ended, until
from gateway.web_servers import Reply, certificate, reply
from tfs_deploy.gateway.problem import Problem


def endless(head: bytes, part: bytes, sent: list[int], pause: float = 0.0) -> Reply:
    """Return a page that sends `part` for ever; `sent` counts the bytes."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(part)
            sent[0] += len(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return serve


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_cut_off_at_the_limit(chunked: bool) -> None:
    sent = [0]
    part = b"x" * 65536
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"
    page = endless(head, b"10000\r\n" + part + b"\r\n" if chunked else part, sent)

    async def scenario(world: World) -> None:
        told = await world.refused("http://web.test/")
        assert told.status == 422
        assert "more than 1048576 bytes" in told.detail

    on_the_web({"/": page}, scenario, max_mib=1.0)
    # What the sockets' buffers hold goes on top.
    assert sent[0] < 12 << 20


def test_a_chunk_over_the_limit_is_told_as_what_it_is() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n20000000\r\n"

    async def scenario(world: World) -> None:
        told = await world.refused("http://web.test/")
        assert told.status == 422
        assert "more than 1048576 bytes" in told.detail

    on_the_web({"/": endless(head, b"x" * 65536, [0])}, scenario, max_mib=1.0)


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    async def scenario(world: World) -> None:
        assert len((await world.get("http://web.test/full")).data) == 1 << 20
        assert "more than" in (await world.refused("http://web.test/over")).detail

    on_the_web({"/full": reply(b"x" * (1 << 20)), "/over": reply(b"x" * ((1 << 20) + 1))}, scenario, max_mib=1.0)


def test_a_decompression_bomb_is_cut_off_at_the_limit() -> None:
    compress = zlib.compressobj(9, wbits=31)
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(64)) + compress.flush()
    assert len(bomb) < 1 << 20

    async def scenario(world: World) -> None:
        started = time.perf_counter()
        told = await world.refused("http://web.test/")
        assert "more than 1048576 bytes" in told.detail
        print(f"{len(bomb)} bytes for {64 << 20}: refused in {(time.perf_counter() - started) * 1000:.1f} ms")
        assert time.perf_counter() - started < 30

    on_the_web({"/": reply(bomb, Content_Encoding="gzip")}, scenario, max_mib=1.0)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


SLOW: dict[str, Callable[[], Reply]] = {
    "no answer": lambda: silent,
    "a head byte by byte": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", [0], 0.05),
    "a body byte by byte": lambda: endless(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", b"x", [0], 0.05),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("limit", ["timeout_seconds", "deadline"])
def test_slow_servers_have_a_total_time(name: str, limit: str) -> None:
    async def scenario(world: World) -> None:
        started = time.monotonic()
        told = await ended(world.refused("http://web.test/", seconds=0.4 if limit == "deadline" else 600.0))
        assert told.status == 504
        assert time.monotonic() - started > 0.3

    on_the_web({"/": SLOW[name]()}, scenario, timeout_seconds=0.4 if limit == "timeout_seconds" else 600.0)


def test_a_deadline_that_has_passed_connects_to_nobody() -> None:
    async def scenario(world: World) -> None:
        assert (await world.refused("http://web.test/", seconds=-1)).status == 504
        assert world.wires.places == []

    on_the_web({}, scenario)


def test_a_server_that_accepts_and_says_nothing_of_tls(tmp_path: Path) -> None:
    """The handshake hangs: the time is kept, and the socket is closed."""

    async def scenario(world: World) -> None:
        told = await ended(world.refused("https://web.test/", seconds=600.0))
        assert told.status in (502, 504)

    on_the_web({}, scenario, timeout_seconds=0.5, tls=(None, certificate(tmp_path, "web.test")[1]))


def test_many_at_once_but_not_more_than_allowed() -> None:
    most: list[Callable[[], int]] = []

    async def page(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await until(lambda: most[0]() >= 6, "six at once")
        writer.write(reply(PICTURE))
        await writer.drain()

    async def scenario(world: World) -> None:
        most.append(lambda: world.server.most_open)
        blobs = await asyncio.gather(*(world.get(f"http://web.test/{n}") for n in range(24)))
        assert [blob.name for blob in blobs] == [str(n) for n in range(24)]
        assert world.server.most_open == 6
        with pytest.raises(Problem, match=r"The URL of item 3 answers with the status 404\."):
            await world.fetcher.fetch("http://web.test/x", deadline=time.monotonic() + LONG, item=3)

    pages: dict[str, Reply] = {f"/{n}": page for n in range(24)}
    on_the_web(pages, scenario, total_parallel=6)


def test_a_request_that_goes_away_closes_its_connection() -> None:
    async def scenario(world: World) -> None:
        task = asyncio.ensure_future(world.get("http://web.test/"))
        await until(lambda: world.server.heads)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    on_the_web({"/": silent}, scenario)
