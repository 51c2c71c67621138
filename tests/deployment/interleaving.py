"""Several actors on the same state documents, of which one at a time carries out one operation, in a chosen order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deployment.fuse import Killed


class Actor:
    """A thread that stops before each operation on its documents until it may go on, or is killed there."""

    def __init__(self, work: Callable[[Any], object], documents: Any) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(work, SteppedDocuments(documents, self)), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def go_on(self, operations: int, *, dies: bool) -> None:
        """Let the actor do so many operations, or end; raise what it raised."""
        for _ in range(operations):
            self._release()
        if dies:
            self._killed = True
            self._release()
        if self.error is not None:
            raise self.error

    def _release(self) -> None:
        if not self.ended:
            self._go.release()
            self._stopped.acquire()

    def before_operation(self) -> None:
        """Called in the actor's thread: wait for the turn."""
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def _run(self, work: Callable[[Any], object], documents: Any) -> None:
        try:
            work(documents)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self._stopped.release()


class SteppedDocuments:
    """State documents that wait for the actor's turn before each operation."""

    def __init__(self, documents: Any, actor: Actor) -> None:
        self._documents = documents
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._documents, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._actor.before_operation()
            return method(*args, **kwargs)

        return call


@dataclass(frozen=True)
class Turn:
    """One actor's turn: its number, how many operations it does, and whether it dies before the next one."""

    actor: int
    operations: int
    dies: bool


def interleave(works: list[Callable[[Any], object]], documents: Any, turns: Iterable[Turn]) -> Iterator[None]:
    """Run `works`, and yield after each turn; after the last one the actors end one after the other.

    Raises what an actor raised.
    """
    actors = [Actor(work, documents) for work in works]
    try:
        for turn in turns:
            if running := [actor for actor in actors if not actor.ended]:
                running[turn.actor % len(running)].go_on(turn.operations, dies=turn.dies)
                yield
        for actor in actors:
            actor.go_on(10_000, dies=False)
            yield
    finally:
        for actor in actors:
            actor.go_on(0, dies=True)
