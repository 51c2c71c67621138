"""`tfs-deploy label` and `promote --label` on two fake replicas."""

from __future__ import annotations

import pytest

from cli.desk import MODEL, Desk, deployed


@pytest.fixture
def live(desk: Desk) -> Desk:
    """A group with version 1 live and version 2 validated."""
    deployed(desk, "good 1")
    for arguments in (("publish", desk.staged("good 2"), "--model", MODEL), ("load", MODEL, 2), ("validate", MODEL, 2)):
        assert desk.run(*arguments).code == 0
    return desk


def canaries(desk: Desk) -> list[int | None]:
    return [server.labels[MODEL].get("canary") for server in desk.servers.values()]


def test_a_label_is_set_moved_and_removed(live: Desk) -> None:
    ran = live.run("label", MODEL, "canary", 2)
    assert (ran.code, ran.out) == (0, f"Label canary of {MODEL} names version 2.\n")
    assert canaries(live) == [2, 2]
    assert "names version 1 (before: 2).\n" in live.run("label", MODEL, "canary", "stable").out
    ran = live.run("label", MODEL, "canary", "--remove")
    assert (ran.code, ran.out) == (0, f"Label canary of {MODEL} is removed; version 1 stays loaded.\n")
    assert canaries(live) == [None, None]
    assert live.stable() == [1, 1]


def test_the_same_again_says_so_and_changes_nothing(live: Desk) -> None:
    set_once = {"model": MODEL, "label": "canary", "version": 2, "previous": None, "changed": True}
    assert live.run("label", MODEL, "canary", 2, "--json").json == set_once
    assert live.run("label", MODEL, "canary", 2, "--json").json == {**set_once, "previous": 2, "changed": False}
    assert "names version 2 already" in live.run("label", MODEL, "canary", 2).out
    live.run("label", MODEL, "canary", "--remove")
    ran = live.run("label", MODEL, "canary", "--remove")
    assert (ran.code, ran.out) == (0, f"{MODEL} has no label canary; nothing was removed.\n")
    assert live.run("label", MODEL, "canary", "--remove", "--json").json["changed"] is False


def test_promote_puts_a_version_under_another_label(live: Desk) -> None:
    ran = live.run("promote", MODEL, 2, "--label", "canary")
    assert (ran.code, ran.out) == (0, f"Label canary of {MODEL} names version 2.\n")
    assert (live.stable(), canaries(live)) == ([1, 1], [2, 2])
    assert live.run("promote", MODEL, "canary", "--label", "stable").code == 0
    assert (live.stable(), canaries(live)) == ([2, 2], [2, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("canary",), 2, "Neither a version nor --remove is given."),
        (("canary", 2, "--remove"), 2, "Both a version and --remove are given."),
        (("stable", 2), 2, "The label 'stable' is reserved. It is moved by: tfs-deploy promote"),
        (("previous", "--remove"), 2, "The label 'previous' is reserved. It is moved by: tfs-deploy rollback"),
        (("2", 2), 2, "The label '2' is named like a version."),
        (("a-b", 2), 2, "The label 'a-b' is not usable."),
        (("canary", 9), 2, "9"),
        (("canary", "blue"), 2, "has no label 'blue'"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(
    live: Desk, arguments: tuple[object, ...], code: int, message: str
) -> None:
    ran = live.run("label", MODEL, *arguments)
    assert ran.code == code
    assert message in ran.err
    assert canaries(live) == [None, None]
