"""A session with a serving group: its store, a client per replica, the clock and the actor. Every step takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.serving.base_client import AsyncServingClient, ServingClient
from tfs_deploy.serving.client import connect, connect_aio
from tfs_deploy.serving.concurrent_calls import call_each
from tfs_deploy.serving.group import ServingGroup, TLSOptions
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.protocol import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for one RPC of each kind (contract 14: a status is fast, a reload with a new name is a load).

    `lease`: for how long a step waits for another deployer, which holds a lease for some RPCs. `busy`: for how long an
    operation is repeated while the server answers that it is busy.
    """

    status: float = 5.0
    reload: float = 30.0
    lease: float = 300.0
    busy: float = 60.0


@dataclass(frozen=True)
class GroupSession:
    """Everything that a step uses; `actor` is written into the record (a user, or a DAG run).

    `reach` connects to a server that is not one of the replicas; None: no other server may be asked. `connect_aio`
    makes an asyncio client of a replica, for a question to many of them; None: they are asked through `clients`.
    """

    store: Store
    group: ServingGroup
    clients: Mapping[str, ServingClient]
    actor: str
    clock: Clock = field(default_factory=SystemClock)
    timeouts: Timeouts = field(default_factory=Timeouts)
    wait: WaitLimits = field(default_factory=WaitLimits)
    reach: Callable[[str], ServingClient] | None = None
    connect_aio: Callable[[str], AsyncServingClient] | None = None

    def gather_results(self, call: Callable[[ServingClient], T]) -> dict[str, T | TFSDeployError]:
        """Call every replica at once and return the result or the TFSDeployError of each, by target."""

        def attempt(target: str) -> T | TFSDeployError:
            try:
                return call(self.clients[target])
            except TFSDeployError as error:
                return error

        return call_each(self.clients, attempt)

    def call_all(self, call: Callable[[ServingClient], T]) -> dict[str, T]:
        """Call every replica at once and return the results by target; raise the first error if any failed."""
        results: dict[str, T] = {}
        for target, result in self.gather_results(call).items():
            if isinstance(result, TFSDeployError):
                raise result
            results[target] = result
        return results


@contextmanager
def open_session(
    store: Store,
    group: ServingGroup,
    *,
    actor: str,
    tls: TLSOptions | None = None,
    clock: Clock | None = None,
    timeouts: Timeouts = Timeouts(),
    wait: WaitLimits = WaitLimits(),
) -> Iterator[GroupSession]:
    """Connect to every replica of `group`, and close the channels at the end."""

    def reach(target: str) -> ServingClient:
        return connect(target, tls=tls, busy_timeout=timeouts.busy)

    def reach_aio(target: str) -> AsyncServingClient:
        return connect_aio(target, tls=tls, busy_timeout=timeouts.busy)

    clients = {target: reach(target) for target in group.replicas}
    try:
        yield GroupSession(store, group, clients, actor, clock or SystemClock(), timeouts, wait, reach, reach_aio)
    finally:
        for client in clients.values():
            client.close()
