"""A deployer that dies: its store, its documents and its model servers stop it before one of its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tfs_deploy.deployment.session import GroupSession


class Killed(BaseException):
    """The deployer's process is gone: nothing of it runs after this, no `except` and no clean-up that does I/O."""


@dataclass
class Fuse:
    """Count operations and kill the process before number `at`; a dead process does nothing more."""

    at: int
    watch: Callable[[], None]
    done: int = 0

    def step(self) -> None:
        if self.done >= self.at:
            raise Killed
        self.done += 1
        self.watch()


class Fused:
    """Let every method call of `wrapped` burn the fuse first."""

    def __init__(self, wrapped: Any, fuse: Fuse) -> None:
        self._wrapped = wrapped
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            self._fuse.step()
            return value(*args, **kwargs)

        return call


class FusedStore(Fused):
    """A store whose documents burn the fuse too."""

    @property
    def documents(self) -> Any:
        return Fused(self._wrapped.documents, self._fuse)


def fused(session: GroupSession, fuse: Fuse) -> GroupSession:
    clients = {target: Fused(client, fuse) for target, client in session.clients.items()}
    return replace(session, store=FusedStore(session.store, fuse), clients=clients)
