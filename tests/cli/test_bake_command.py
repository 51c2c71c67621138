"""`tfs-deploy bake` on two fake replicas and the metrics of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cli.desk import MODEL, Desk, deployed
from deployment.fake_gateway import Gateway, web_server


class Site:
    """A group with version 1 live and version 2 as canary, and a gateway that serves before it is asked."""

    def __init__(self, desk: Desk, gateway: Gateway) -> None:
        self.desk = desk
        self.gateway = gateway
        self.traffic: Callable[[], None] = lambda: None
        self.keys: list[str | None] = []
        self.address = ""

    def bake(self, *more: object) -> object:
        return self.desk.run("bake", MODEL, "--metrics", self.address, "--seconds", "0.2", *more)

    def canaries(self) -> list[int | None]:
        return [server.labels[MODEL].get("canary") for server in self.desk.servers.values()]


@pytest.fixture
def site(desk: Desk) -> Iterator[Site]:
    deployed(desk, "good 1")
    for arguments in (("publish", desk.staged("good 2"), "--model", MODEL), ("load", MODEL, 2), ("validate", MODEL, 2)):
        assert desk.run(*arguments).code == 0
    assert desk.run("label", MODEL, "canary", 2).code == 0
    site = Site(desk, Gateway(MODEL))

    def answer(request) -> tuple[int, str]:
        site.keys.append(request.headers["X-API-Key"])
        text = site.gateway.text()
        # What the next reading finds.
        site.traffic()
        return 200, text

    with web_server(answer) as address:
        site.address = address
        yield site


def test_a_canary_that_passes_keeps_its_label(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFS_DEPLOY_GATEWAY_KEY", "a key")
    site.traffic = lambda: site.gateway.serve(stable=500, canary=200)
    ran = site.bake()
    assert ran.code == 0, ran.err
    assert ran.out == (
        f"Version 2 of {MODEL} passed: The canary answered 200 requests and failed 0, "
        "which is no worse than the stable version.\n"
    )
    assert site.canaries() == [2, 2]
    assert set(site.keys) == {"a key"}


def test_a_canary_that_fails_ends_with_1_and_loses_its_label(site: Site) -> None:
    site.traffic = lambda: site.gateway.serve(stable=500, canary=100, broken=100)
    ran = site.bake("--json")
    assert ran.code == 1
    assert (ran.json["verdict"], ran.json["label_removed"], ran.json["measured"]["canary_requests"]) == (
        "fail",
        True,
        200.0,
    )
    assert site.canaries() == [None, None]


def test_without_traffic_it_ends_with_3(site: Site) -> None:
    ran = site.bake()
    assert (ran.code, "could not be decided on: The canary had 0 requests" in ran.out) == (3, True)
    assert site.canaries() == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "The bake has no source of metrics."),
        (("--metrics", "gateway"), "'gateway' is not usable"),
        (("--metrics", "http://127.0.0.1:1/metrics"), "cannot be read"),
        (("--metrics", "http://g/metrics", "--min-requests", "0"), "The limit min_requests of the bake is 0."),
        (("--metrics", "http://g/metrics", "--label", "blue"), "has no label 'blue'"),
    ],
)
def test_bad_input_is_refused(site: Site, arguments: tuple[str, ...], message: str) -> None:
    ran = site.desk.run("bake", MODEL, *arguments)
    assert ran.code in (2, 3)
    assert message in ran.err
    assert site.canaries() == [2, 2]
