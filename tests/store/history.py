"""A stateful test of any store: see `history_of`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import TestCase

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contract.staged_versions import stage
from tfs_deploy.store.protocol import Store


class StoreHistory(RuleBasedStateMachine):
    """Any history of publish, withdraw, delete and find, by two processes in turn, against a plain model of it."""

    def connect(self, root: Path) -> Store:
        """Return the store at `root`; `history_of` fills this in."""
        raise AssertionError("use history_of")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tfs-deploy-history-"))
        self.stores = (self.connect(self.root), self.connect(self.root))
        self.staged = [stage(self.root / f"staged{index}", bytes([index])) for index in range(3)]
        self.live: dict[int, str] = {}
        self.used: list[int] = []

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(who=st.integers(0, 1), what=st.integers(0, 2), above=st.sampled_from([0, 0, 0, 5, 17]))
    def publish(self, who: int, what: int, above: int) -> None:
        directory, manifest = self.staged[what]
        before = [version for version, fingerprint in self.live.items() if fingerprint == manifest.fingerprint]
        published = self.stores[who].publish(directory, manifest, "m", above=above)
        number = published.version.version
        if before:
            assert (number, published.created) == (before[0], False)
            return
        assert published.created
        assert number > max([above, *self.used])
        self.used.append(number)
        self.live[number] = manifest.fingerprint

    @rule(who=st.integers(0, 1), index=st.integers(0, 30), how=st.sampled_from(["withdraw", "delete"]))
    def remove(self, who: int, index: int, how: str) -> None:
        if not self.used:
            return
        number = self.used[index % len(self.used)]
        if how == "withdraw":
            self.stores[who].withdraw("m", number, "tried")
        else:
            self.stores[who].delete("m", number)
        self.live.pop(number, None)

    @invariant()
    def everybody_sees_what_is_live(self) -> None:
        for store in self.stores:
            assert store.versions("m") == tuple(sorted(self.live))

    @invariant()
    def bytes_are_found_where_they_are(self) -> None:
        for _, manifest in self.staged:
            found = self.stores[0].find("m", manifest.fingerprint)
            expected = [number for number, fingerprint in self.live.items() if fingerprint == manifest.fingerprint]
            assert ([found.version] if found else []) == expected

    @invariant()
    def nothing_is_torn(self) -> None:
        for number in self.live:
            self.stores[1].verify("m", number)


def history_of(connect: Callable[[Path], Store], *, examples: int = 25) -> type[TestCase]:
    """Return a test case that plays random histories on the stores that `connect` opens below a fresh directory."""
    machine = type("History", (StoreHistory,), {"connect": lambda self, root: connect(root)})
    case: type[TestCase] = machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return case
