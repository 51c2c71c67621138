"""Addresses of replicas, and the serving group's own rules."""

from __future__ import annotations

import pytest

from tfs_deploy.errors import InvalidInput, Unreachable
from tfs_deploy.serving.group import ServingGroup, parse_targets


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("a:1", ("a:1",)),
        ("a", ("a:8500",)),
        (" a:1 , b:2,", ("a:1", "b:2")),
        ("a:1,a:1", ("a:1",)),
        ("[::1]:9000,[::1]", ("[::1]:9000", "[::1]:8500")),
        ("::1", ("[::1]:8500",)),
        (["a:1", "b"], ("a:1", "b:8500")),
    ],
)
def test_addresses(text, targets):
    assert parse_targets(text) == targets


@pytest.mark.parametrize(
    "text", ["", ",", "a:x", "a:x:", "a:99999", "a:0", "http://a:1", "a b:1", ":8500", "a/b", "a:-1"]
)
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_targets(text)


def test_a_dns_name_is_every_address_behind_it():
    def resolve(host, port):
        assert (host, port) == ("model-servers.svc", 8500)
        return ["10.0.0.2", "10.0.0.1", "fd00::1"]

    assert parse_targets("dns:model-servers.svc", resolve=resolve) == (
        "10.0.0.2:8500",
        "10.0.0.1:8500",
        "[fd00::1]:8500",
    )


def test_a_name_that_does_not_resolve_may_do_so_later():
    with pytest.raises(Unreachable, match="does not resolve"):
        parse_targets("dns:no-such-host.invalid:8500")


def test_base_paths_hang_below_the_model_root():
    assert ServingGroup("g", ("a:1",), "/models").base_path("m") == "/models/m"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_group_name_is_one_segment(name):
    with pytest.raises(InvalidInput, match="group name"):
        ServingGroup(name, ("a:1",), "/models")
