"""One replica without a network: an agent that follows the highest version of a store, and a server that watches."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from fakes import FakeClock
from looking_on import looking_on
from sync.bench import at_once
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.agent import Agent
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.settings import AgentSettings
from watching_server import WatchingServer

# Between two passes; a server of the tests' own needs some air.
_PAUSE_SECONDS = 0.05


class Replica:
    """Brings what a store shows of the model ``m``, and checks that nothing incomplete is ever shown to the server."""

    def __init__(self, store: Store, root: Path, *, stable: Mapping[str, Collection[int]] | None = None) -> None:
        disk = ReplicaDisk(root)
        disk.prepare()
        settings = AgentSettings("g", "replica", latest=("m",), keep=0, linger=0.0)
        self._clock = FakeClock()
        self._agent = Agent(store, disk, settings, clock=self._clock, launch=at_once, reports=False)
        self._root = root
        self.server = WatchingServer(root, stable=stable)

    def look(self) -> None:
        """Make one pass of the agent, and let the server look."""
        self._clock.advance(1.0)
        self._agent.poll()
        self.server.look()

    def expect(self, *versions: int) -> None:
        """Make the passes that it takes, and check that exactly `versions` answer and nothing else lies there."""
        for _ in range(4):
            self.look()
        self.server.expect("m", *versions)
        base = self._root / "m"
        there = {path.name for path in base.iterdir()} if base.is_dir() else set()
        assert there == {str(version) for version in versions}

    @contextlib.contextmanager
    def watching(self) -> Iterator[Replica]:
        """Make passes in a thread for the block, and check at the end."""
        self.look()
        with looking_on(self.look, pause=_PAUSE_SECONDS, name="replica"):
            yield self
        self.server.check()
