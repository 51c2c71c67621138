"""Which addresses and hosts may be fetched from, and how a URL is read."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.web_servers import PUBLIC, PUBLIC_SIX
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.fetching.connection import CannotResolve, SystemResolver
from tfs_deploy.gateway.fetching.rules import (
    AddressScope,
    BadURL,
    FetchRules,
    Target,
    address_scope,
    parse_url,
    redirect_target,
)

PRIVATE = [
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "127.0.0.1", "127.255.255.254"),
    *("100.64.0.1", "100.127.255.255", "198.18.0.1", "198.19.255.255"),
    *("::1", "fc00::1", "fd00:ec2::253", "fdff:ffff::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:192.168.1.1"),
]
FORBIDDEN = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "192.0.0.8", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("::", "fe80::1", "fe80::1%1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "100::1"),
    # Metadata services.
    *("100.100.100.200", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::168.63.129.16"),
    *("fd00:ec2::254", "fd20:ce::254"),
    # Addresses that carry an IPv4 address inside: mapped, compatible, NAT64 (well-known and local), 6to4, Teredo.
    *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "64:ff9b:1::8.8.8.8"),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "2002:808:808::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1", "5f00::1", "4000::1", "1::1"),
]
PUBLIC_ONES = ["8.8.8.8", "1.1.1.1", PUBLIC, "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "169.253.0.1"]
PUBLIC_ONES += [PUBLIC_SIX, "2001:4860:4860::8888", "2a00:1450:4001::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]


@pytest.mark.parametrize(
    ("address", "far"),
    [(one, AddressScope.PRIVATE) for one in PRIVATE]
    + [(one, AddressScope.FORBIDDEN) for one in FORBIDDEN]
    + [(one, AddressScope.PUBLIC) for one in PUBLIC_ONES],
)
def test_how_far_an_address_reaches(address: str, far: AddressScope) -> None:
    assert address_scope(ipaddress.ip_address(address)) is far


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@example(ipaddress.ip_address("64:ff9b::1.2.3.4"))
def test_a_public_address_is_global_by_the_standard_library_too(address: ipaddress.IPv4Address) -> None:
    carries_another = address.version == 6 and int(address) >> 32 in (0xFFFF, 0x64FF9B << 64)
    if address_scope(address) is AddressScope.PUBLIC and not carries_another:
        assert address.is_global
        special = ("private", "loopback", "link_local", "multicast", "unspecified", "reserved")
        assert not [word for word in special if getattr(address, f"is_{word}")]


def numbers(host: str) -> list[str]:
    """Return what this machine's resolver makes of a host that needs no name server."""

    async def ask() -> list[str]:
        resolver = SystemResolver(1)
        try:
            return [str(found.address) for found in await resolver(host, 80)]
        finally:
            resolver.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "localhost"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "127.0.0.1", "LOCALHOST"),
        # Digits and dots that only look different: normalised by IDNA.
        *("127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1"),
    ],
)
def test_however_loopback_is_spelt_it_is_loopback(host: str) -> None:
    try:
        target = parse_url(f"http://{host}/")
        found = numbers(target.host)
    except (BadURL, CannotResolve):
        return  # no address, no connection
    assert found
    assert not any(FetchRules().permits(target, ipaddress.ip_address(address)) for address in found)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://a.test", Target("http", "a.test", 80, "/")),
        ("HTTPS://A.Test:443/x", Target("https", "a.test", 443, "/x")),
        ("http://a.test:8080/a b".replace(" ", "%20") + "?q=1&r=/?", Target("http", "a.test", 8080, "/a%20b?q=1&r=/?")),
        ("http://a.test/\u00e9?\u00fc#part", Target("http", "a.test", 80, "/%C3%A9?%C3%BC")),
        ("http://b\u00fccher.test/", Target("http", "xn--bcher-kva.test", 80, "/")),
        ("http://[2606:2800::1]:80/", Target("http", "2606:2800::1", 80, "/")),
        ("http://a.test?q", Target("http", "a.test", 80, "/?q")),
    ],
)
def test_what_a_url_means(text: str, target: Target) -> None:
    assert parse_url(text) == target
    assert parse_url(target.url) == target


def test_the_host_header_has_the_port_only_where_it_is_unusual() -> None:
    assert parse_url("http://a.test:80/").host_header == "a.test"
    assert parse_url("https://a.test:80/").host_header == "a.test:80"
    assert parse_url("http://[2606:2800::1]:81/").host_header == "[2606:2800::1]:81"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (5, "not a string"),
        ("", "http://"),
        ("a.test/x", "http://"),
        ("//a.test/x", "http://"),
        ("file:///etc/passwd", "http://"),
        ("ftp://a.test/", "http://"),
        ("gopher://a.test/", "http://"),
        ("javascript:alert(1)", "http://"),
        ("http://", "no usable host"),
        ("http:///x", "no usable host"),
        ("http://user@a.test/", "user name"),
        ("http://user:pass@a.test/", "user name"),
        ("http://a.test\\@b.test/", "backslash"),
        ("http://a.test/\r\nX: y", "control character"),
        ("http://a.test/ x", "space"),
        ("http://a.test:99999/", "is malformed"),
        ("http://a.test:port/", "is malformed"),
        ("http://[::1", "is malformed"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://a.test:0/", "port 0"),
        ("http://%31%32%37.0.0.1/", "no usable host"),
        ("http://a..test/", "no usable host"),
        ("http://a_b!.test/", "no usable host"),
        ("http://" + "a" * 64 + ".test/", "no usable host"),
        ("http://\ud800.test/", "no usable host"),
        ("http://a.test/\ud800", "not text"),
        ("http://a.test/" + "a" * 4096, "longer"),
    ],
)
def test_urls_that_are_not_fetched(text: object, said: str) -> None:
    with pytest.raises(BadURL) as caught:
        parse_url(text)
    assert said in str(caught.value)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(st.characters()),
        st.text("htps:/.@#?[]%\\0123456789abcx\u3002\uff0e", max_size=40).map("http://{}".format),
    )
)
def test_a_url_is_read_or_refused(text: str) -> None:
    try:
        target = parse_url(text)
    except BadURL:
        return
    target.path.encode("ascii")
    target.host.encode("ascii")
    assert not set(target.host_header) & set("/@?#\\ ")
    assert target.path.startswith("/")
    assert parse_url(target.url) == target


def test_where_a_redirect_leads() -> None:
    start = parse_url("https://a.test:8443/x/y?z")
    assert redirect_target(start, "w").url == "https://a.test:8443/x/w"
    assert redirect_target(start, "/w?v").url == "https://a.test:8443/w?v"
    assert redirect_target(start, "//b.test/").url == "https://b.test/"
    assert redirect_target(parse_url("http://a.test/"), "https://a.test/").scheme == "https"
    for location, said in (
        ("http://a.test/", "from https to http"),
        ("file:///etc/passwd", "http://"),
        ("https://u@a.test/", "user name"),
        ("https://[", "is malformed"),
    ):
        with pytest.raises(BadURL, match=said):
            redirect_target(start, location)


def permits(url: str, address: str, allow: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> bool:
    return FetchRules(allow_hosts=allow, only_hosts=only).permits(parse_url(url), ipaddress.ip_address(address))


def test_public_addresses_on_the_usual_ports() -> None:
    assert permits("http://a.test/", PUBLIC)
    assert permits("https://a.test/", PUBLIC_SIX)
    assert not permits("http://a.test:8080/", PUBLIC)
    assert not permits("http://a.test:22/", PUBLIC)


def test_hosts_that_are_allowed_although_they_are_inside() -> None:
    assert permits("http://store.test/", "10.0.0.1", ("store.test",))
    assert not permits("http://other.test/", "10.0.0.1", ("store.test",))
    assert not permits("http://store.test:9000/", "10.0.0.1", ("store.test",))
    assert permits("http://store.test:9000/", "10.0.0.1", ("store.test:9000",))
    assert not permits("http://store.test/", "10.0.0.1", ("store.test:9000",))
    assert permits("http://a.store.test/", "10.0.0.1", ("*.store.test",))
    assert not permits("http://store.test/", "10.0.0.1", ("*.store.test",))
    assert not permits("http://evilstore.test/", "10.0.0.1", ("*.store.test",))
    assert permits("http://STORE.test./", "10.0.0.1", ("Store.Test",))


def test_a_name_never_allows_the_metadata_service_but_its_address_does() -> None:
    assert not permits("http://store.test/", "169.254.169.254", ("store.test",))
    assert not permits("http://store.test/", "0.0.0.0", ("store.test",))
    assert permits("http://store.test/", "169.254.169.254", ("169.254.169.254",))


def test_networks_that_are_allowed() -> None:
    assert permits("http://any.test/", "10.1.2.3", ("10.1.0.0/16",))
    assert not permits("http://any.test/", "10.2.2.3", ("10.1.0.0/16",))
    assert not permits("http://any.test/", "::ffff:10.1.2.3", ("10.1.0.0/16",))
    assert permits("http://[::1]:8080/", "::1", ("[::1]:8080",))
    assert not permits("http://[::1]/", "::1", ("[::1]:8080",))
    assert permits("http://any.test/", "fd00::5", ("fd00::/8",))


def test_a_list_of_all_that_may_be_fetched_from() -> None:
    assert permits("http://cdn.test/", PUBLIC, only=("cdn.test",))
    assert not permits("http://other.test/", PUBLIC, only=("cdn.test",))
    assert permits("http://cdn.test:8443/", PUBLIC, only=("cdn.test:8443",))
    assert not permits("http://cdn.test/", "10.0.0.1", only=("cdn.test",))
    assert permits("http://cdn.test/", "10.0.0.1", allow=("cdn.test",), only=("cdn.test",))
    assert not FetchRules(only_hosts=["cdn.test"]).may_resolve(parse_url("http://other.test/"))
    assert FetchRules(only_hosts=["cdn.test", "10.0.0.0/8"]).may_resolve(parse_url("http://other.test/"))


@pytest.mark.parametrize("text", ["", "http://a.test", "a.test:0", "a.test:99999", "user@a.test", "a.test:x", "[::1"])
def test_hosts_of_the_configuration_that_are_not_usable(text: str) -> None:
    with pytest.raises(InvalidInput, match="section `fetch`"):
        FetchRules(allow_hosts=[text])
