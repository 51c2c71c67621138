"""Fetching URLs for strangers: what comes back, what is refused, and that nothing but loopback is ever connected to."""

from __future__ import annotations

import asyncio
import gzip
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.fetching_world import PICTURE, World, on_the_web
from gateway.waiting import LONG
from gateway.web_servers import PUBLIC, PUBLIC_SIX, Reply, WebServer, certificate, redirect, reply
from tfs_deploy.gateway.config import Fetch
from tfs_deploy.gateway.fetching.fetch import Fetcher
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.processors.protocol import Blob


def test_a_picture_and_what_is_told_about_it() -> None:
    async def scenario(world: World) -> None:
        blob = await world.get("http://web.test/cats/a%20cat.png?size=1#top")
        assert blob == Blob(PICTURE, "image/png", "a cat.png")
        assert world.wires.places == [f"{PUBLIC}:80"]
        head = world.server.heads[0].split("\r\n")
        assert head[0] == "GET /cats/a%20cat.png?size=1 HTTP/1.1"
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        assert fields["Host"] == "web.test"
        assert fields["Accept-Encoding"] == "identity"
        assert fields.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}

    pages = {"/cats/a%20cat.png?size=1": reply(PICTURE, Content_Type="image/PNG; charset=x", Set_Cookie="a=b")}
    on_the_web(pages, scenario)


def test_no_environment_changes_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def scenario(world: World) -> None:
        assert (await world.get("http://web.test/")).data == PICTURE

    on_the_web({"/": reply(PICTURE)}, scenario)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://[::1]/", "http://0.0.0.0/", "http://[::]/", "http://[::ffff:127.0.0.1]/"),
        *(
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/",
            "http://10.0.0.7/",
            "http://[fe80::1]/",
        ),
        *("http://metadata.test/", "http://inside.test/", "http://loop.test/", "http://mixed.test/"),
        *("http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::1]/", "http://255.255.255.255/", "http://224.0.0.1/"),
        *("http://web.test:22/", "http://web.test:8080/", "https://web.test:8443/"),
    ],
)
def test_what_is_not_public_is_never_connected_to(url: str) -> None:
    async def scenario(world: World) -> None:
        told = await world.refused(url)
        assert told.status == 422
        assert "may not be fetched from" in told.detail
        assert world.wires.places == []

    on_the_web({}, scenario)


@pytest.mark.parametrize("target", ["http://127.0.0.1/", "http://metadata.test/", "//inside.test/", "http://[::1]:80/"])
def test_redirects_are_checked_like_the_first_url(target: str) -> None:
    async def scenario(world: World) -> None:
        told = await world.refused("http://web.test/")
        assert told.status == 422
        assert world.wires.places == [f"{PUBLIC}:80"]

    on_the_web({"/": redirect(target)}, scenario)


def test_the_second_answer_of_a_resolver_is_never_used() -> None:
    """Rebinding: the name is public when it is checked and loopback a moment later."""

    async def scenario(world: World) -> None:
        assert (await world.get("http://rebinding.test/")).data == PICTURE
        assert world.resolver.asked == ["rebinding.test"]
        assert world.wires.places == [f"{PUBLIC}:80"]
        await world.refused("http://rebinding.test/")
        assert world.resolver.asked == ["rebinding.test"] * 2
        assert world.wires.places == [f"{PUBLIC}:80"]

    on_the_web({"/": reply(PICTURE)}, scenario, names={"rebinding.test": [[PUBLIC], ["127.0.0.1"]]})


def test_rebinding_between_two_hops_is_seen() -> None:
    async def scenario(world: World) -> None:
        await world.refused("http://rebinding.test/")
        assert world.wires.places == [f"{PUBLIC}:80"]
        assert world.server.paths == ["/"]

    pages = {"/": redirect("/secret"), "/secret": reply(PICTURE)}
    on_the_web(pages, scenario, names={"rebinding.test": [[PUBLIC], ["127.0.0.1"]]})


def test_redirects_are_followed_and_counted() -> None:
    async def scenario(world: World) -> None:
        assert (await world.get("http://web.test/1")).data == PICTURE
        assert world.server.paths == ["/1", "/2", "/3", "/4"]
        told = await world.refused("http://web.test/0")
        assert "more than 3 times" in told.detail
        assert "more than 3 times" in (await world.refused("http://web.test/loop")).detail

    pages: dict[str, Reply] = {
        "/0": redirect("http://web.test/1"),
        "/1": redirect("2", "301 Moved"),
        "/2": redirect("//web.test/3", "307 T"),
        "/3": redirect("/4#x", "308 P"),
        "/4": reply(PICTURE),
        "/loop": redirect("/loop"),
    }
    on_the_web(pages, scenario, redirects=3)


@pytest.mark.parametrize(
    ("page", "status", "said"),
    [
        (reply(b"", "302 Found"), 422, "status 302"),
        (redirect("ftp://web.test/"), 422, "http://"),
        (redirect("http://user:pass@web.test/"), 422, "user name"),
        (redirect("http://web.test/ x"), 422, "space"),
        (redirect("http://[x"), 422, "is malformed"),
        (reply(b"", "404 Not Found"), 422, "status 404"),
        (reply(b"", "206 Partial Content"), 422, "status 206"),
        (reply(b"", "503 Busy"), 502, "status 503"),
        (reply(b"<html>", Content_Type="text/html"), 422, "content type 'text/html'"),
        (reply(PICTURE, Content_Encoding="br"), 422, "coding 'br'"),
        (reply(PICTURE, Content_Encoding="gzip"), 422, "not valid gzip"),
        (reply(gzip.compress(PICTURE)[:-9], Content_Encoding="gzip"), 502, "middle of its body"),
        (reply(PICTURE, Content_Length="1000"), 502, "middle of its body"),
        (reply(PICTURE, Content_Length="-5"), 502, ""),
        (reply(PICTURE, Content_Length="9" * 30), 422, "more than 1048576 bytes"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 502, "does not answer with HTTP"),
        (b"", 502, "does not answer with HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", 502, "does not answer with HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 502, "without end"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 502, "middle"),
    ],
)
def test_answers_that_are_not_taken(page: bytes, status: int, said: str) -> None:
    async def scenario(world: World) -> None:
        told = await world.refused("http://web.test/")
        assert told.status == status
        assert said in told.detail

    on_the_web({"/": page}, scenario, max_mib=1.0)


def test_bodies_that_are_taken() -> None:
    async def scenario(world: World) -> None:
        for path in ("/chunked", "/until-close", "/gzip", "/empty-type", "/interim"):
            assert (await world.get(f"http://web.test{path}")).data == PICTURE
        assert (await world.get("http://web.test/empty-type")).content_type == "application/octet-stream"
        assert (await world.get("http://web.test/nothing")).data == b""

    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
    pages: dict[str, Reply] = {
        "/chunked": head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE),
        "/until-close": head + b"\r\n" + PICTURE,
        "/gzip": reply(gzip.compress(PICTURE), Content_Encoding="gzip"),
        "/empty-type": reply(PICTURE, Content_Type=""),
        "/interim": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(PICTURE),
        "/nothing": reply(b""),
    }
    on_the_web(pages, scenario)


def test_names_that_lead_nowhere() -> None:
    async def scenario(world: World) -> None:
        for url in ("http://nowhere.test/", "http://empty.test/"):
            told = await world.refused(url)
            assert (told.status, "cannot be resolved" in told.detail) == (422, True)
        world.wires._server = None
        told = await world.refused("http://web.test/")
        assert (told.status, "does not accept" in told.detail) == (502, True)

    on_the_web({}, scenario)


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    async def scenario(world: World) -> None:
        wires = world.wires

        async def connect(where: Any, **given: Any) -> Any:
            if where.address.version == 6:
                wires.places.append(f"{where.address}:{where.port}")
                raise OSError("no route")
            return await wires(where, **given)

        world.fetcher._connect = connect
        assert (await world.get("http://six.test/")).data == PICTURE
        assert wires.places == [f"{PUBLIC_SIX}:80", f"{PUBLIC}:80"]

    on_the_web({"/": reply(PICTURE)}, scenario)


def test_certificates_are_checked_against_the_name(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "web.test")

    async def scenario(world: World) -> None:
        assert (await world.get("https://web.test/")).data == PICTURE
        assert world.wires.places == [f"{PUBLIC}:443"]
        assert "Host: web.test\r\n" in world.server.heads[0]
        told = await world.refused("https://other.test/")
        assert (told.status, "certificate" in told.detail) == (502, True)
        assert len(world.server.heads) == 1
        told = await world.refused("https://web.test/down")
        assert "from https to http" in told.detail

    pages = {"/": reply(PICTURE), "/down": redirect("http://web.test/")}
    on_the_web(pages, scenario, names={"other.test": [PUBLIC]}, tls=(server, client))


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    server, _ = certificate(tmp_path, "web.test")

    async def scenario(world: World) -> None:
        told = await world.refused("https://web.test/")
        assert (told.status, "certificate" in told.detail) == (502, True)

    on_the_web({"/": reply(PICTURE)}, scenario, tls=(server, None))


def test_loopback_with_the_machines_own_resolver_if_it_is_allowed() -> None:
    """Nothing injected: the whole way is the one that production takes."""

    async def run() -> None:
        async with WebServer({"/": reply(PICTURE)}) as server:
            url = f"http://localhost:{server.port}/"
            deadline = time.monotonic() + LONG
            allowed = Fetcher(
                Fetch(allow_hosts=(f"localhost:{server.port}", f"127.0.0.1:{server.port}"), timeout_seconds=LONG)
            )
            refusing = Fetcher(Fetch())
            try:
                assert (await allowed.fetch(url, deadline=deadline)).data == PICTURE
                assert (await allowed.fetch(url.replace("localhost", "127.1"), deadline=deadline)).data == PICTURE
                for spelling in ("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"):
                    with pytest.raises(Problem, match="may not be fetched from"):
                        await refusing.fetch(url.replace("localhost", spelling), deadline=deadline)
            finally:
                allowed.close()
                refusing.close()
            assert len(server.heads) == 2

    asyncio.run(run())


def test_fetching_can_be_turned_off() -> None:
    async def scenario(world: World) -> None:
        told = await world.refused("http://web.test/")
        assert (told.status, "fetches no URLs" in told.detail) == (422, True)
        assert world.resolver.asked == []

    on_the_web({}, scenario, enabled=False)


def test_names_that_are_not_on_the_list_are_not_even_looked_up() -> None:
    async def scenario(world: World) -> None:
        assert (await world.get("http://web.test/")).data == PICTURE
        await world.refused("http://secret-data.evil.test/")
        assert world.resolver.asked == ["web.test"]

    on_the_web({"/": reply(PICTURE)}, scenario, only_hosts=("web.test",))
