"""The traffic of a canary and of the stable version, read from what a gateway really exports."""

from __future__ import annotations

import math

import pytest

from deployment.fake_gateway import Gateway, web_server
from tfs_deploy.deployment.bake_decision import Traffic
from tfs_deploy.deployment.gateway_metrics import (
    ComparedTraffic,
    Readings,
    check_addresses,
    compare,
    http_fetch,
    parse_counts,
    read_counts,
)
from tfs_deploy.errors import CorruptModel, InvalidInput, Permanent, Unreachable

A, B = "http://a:8080/metrics", "http://b:8080/metrics"


def reading(**gateways: Gateway) -> Readings:
    return read_counts(gateways, "m", lambda address: gateways[address].text())


def compared(before: Readings, after: Readings) -> ComparedTraffic:
    return compare(before, after, label="canary", canary=2, stable=1)


def test_each_request_counts_for_its_version() -> None:
    gateway = Gateway()
    gateway.reply(200, 1, "stable", count=50)
    gateway.reply(200, 2, "canary", count=20)
    before = reading(a=gateway)
    gateway.reply(200, 1, "stable", count=5, seconds=0.004)
    gateway.reply(200, 2, "canary", count=3, seconds=0.02)
    gateway.reply(502, count=2)
    gateway.reply(404)
    gateway.canary_failure(504, 4)
    gateway.canary_failure(503, 6)
    Gateway("other").canary_failure(500)
    found = compared(before, reading(a=gateway))
    assert (found.stable.answered, found.stable.failed, found.stable.undecided) == (5, 2, 0)
    assert (found.canary.answered, found.canary.failed, found.canary.undecided) == (3, 4, 6)
    assert found.stable.latency_bounds(0.95) == (0.0025, 0.005)
    assert found.canary.latency_bounds(0.95) == (0.01, 0.025)
    assert found.missing == ()


def test_gateways_are_added_up_and_a_restart_begins_at_zero() -> None:
    one, two = Gateway(), Gateway()
    one.reply(200, 2, "canary", count=10)
    two.reply(200, 2, "canary", count=10)
    before = reading(a=one, b=two)
    restarted = Gateway()
    restarted.reply(200, 2, "canary", count=3)
    two.reply(200, 2, "canary", count=4)
    found = compared(before, reading(a=restarted, b=two))
    assert found.canary.answered == 7
    assert found.canary.latency[math.inf] == 7


def test_nothing_counted_is_no_traffic() -> None:
    assert compared(reading(a=Gateway()), reading(a=Gateway())) == ComparedTraffic(Traffic(), Traffic())


def test_a_gateway_that_was_read_only_once_is_missing() -> None:
    gateway = Gateway()
    assert compared(reading(a=gateway), reading(a=gateway, b=gateway)).missing == ("b (it was not read)",)

    def fetch(address: str) -> str:
        if address == B:
            raise Unreachable("It did not answer.", "Wait.")
        return gateway.text()

    found = compared(read_counts([A, B], "m", fetch), read_counts([A, B], "m", fetch))
    assert found.missing == (f"{B} (It did not answer)",)


@pytest.mark.parametrize(
    ("label", "missing"),
    [("canary", "version 3 answered as the canary version"), ("stable", "version 3 answered as the stable version")],
)
def test_another_version_under_a_label_is_said(label: str, missing: str) -> None:
    gateway = Gateway()
    before = reading(a=gateway)
    gateway.reply(200, 3, label)
    assert compared(before, reading(a=gateway)).missing == (missing,)


def test_what_is_no_text_of_metrics_is_an_error() -> None:
    with pytest.raises(CorruptModel, match="Prometheus"):
        parse_counts("<html>nothing here</html>", "m")


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ([], "no source of metrics"),
        ([" "], "no source of metrics"),
        (["gateway:8080"], "'gateway:8080' is not usable"),
        (["file:///etc/passwd"], "is not usable"),
        (["http://user:secret@gateway/metrics"], r"'http://\.\.\.' is not usable"),
    ],
)
def test_addresses_are_checked(addresses: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        check_addresses(addresses)
    assert "secret" not in str(caught.value)


def test_addresses_are_taken_once() -> None:
    assert check_addresses([A, f" {A} ", B]) == (A, B)


def test_the_api_key_is_sent_and_a_refusal_is_said() -> None:
    with web_server(lambda request: (200, "ok") if request.headers["X-API-Key"] == "a key" else (401, "")) as address:
        assert http_fetch("a key")(address) == "ok"
        with pytest.raises(Permanent, match="with status 401"):
            http_fetch()(address)
    with pytest.raises(Unreachable, match="cannot be read"):
        http_fetch()(address)
