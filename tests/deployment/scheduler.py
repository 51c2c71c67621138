"""A deterministic scheduler of deployers: one thread each, of which exactly one runs, for so many operations.

An operation is a call on the state documents, the store or a model server; a sleep of the clock ends a turn. Time moves
only when a sleeping deployer gets its turn: then its sleep is over, however slow the others are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from deployment.fuse import Killed
from tfs_deploy.deployment.lease import RENEW_SECONDS, Lease
from tfs_deploy.errors import TFSDeployError

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
# A deployer that is not disturbed needs some hundred.
_MOST_OPERATIONS = 20_000


@dataclass(frozen=True)
class Turn:
    """The turn of one deployer among those that still run, and how many operations it does in it at most."""

    deployer: int
    operations: int


class Deployer:
    """A thread that runs `work` and stops where its turn ends; its process dies before operation `dies_before`."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], object], dies_before: int | None = None) -> None:
        self.result: Any = None
        self.error: TFSDeployError | None = None
        self.dead = self.ended = False
        self.wakes_at = 0.0
        self.operations = 0
        self._scheduler = scheduler
        self._work = work
        self._dies_before = dies_before
        self._left = 0
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self, operations: int) -> None:
        """Let the deployer do so many operations, or less until it sleeps or ends."""
        if not self.ended:
            self._left = operations
            self._go.release()
            self._stopped.acquire()

    def kill(self) -> None:
        """Let the process die where it stands."""
        self.dead = self.dead or not self.ended
        self.go_on(0)

    def before_operation(self) -> None:
        """Called in the deployer's thread: wait for the turn, or die."""
        if not self.dead and self._left == 0:
            self._stop()
        self.dead = self.dead or self.operations == self._dies_before
        if self.dead:
            raise Killed
        self._left -= 1
        self.operations += 1

    def sleep_until(self, time: float) -> None:
        """Called in the deployer's thread: end the turn until `time`."""
        self.wakes_at = time
        if not self.dead:
            self._stop()
        if self.dead:
            raise Killed

    def _stop(self) -> None:
        self._stopped.release()
        self._go.acquire()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                self.result = self._work()
        except Killed:
            pass
        except TFSDeployError as error:
            self.error = error
        except BaseException as error:
            self._scheduler.violated(error)
        finally:
            self.ended = True
            self._stopped.release()


class Scheduler:
    """Runs deployers turn by turn; it is the clock of all of them, and renews the leases of those that live.

    `check` is called after each operation and raises where an invariant does not hold; `on_time` is called when time
    has moved.
    """

    def __init__(self, check: Callable[[], object], on_time: Callable[[], object]) -> None:
        self._check = check
        self._on_time = on_time
        self._seconds = 0.0
        self._running: Deployer | None = None
        self._leases: dict[Lease, tuple[Deployer | None, float]] = {}
        self._violation: BaseException | None = None

    def run(self, deployers: list[Deployer], turns: Iterable[Turn] = ()) -> None:
        """Run `deployers` by `turns`, then one after the other until all have ended; raise what was violated."""
        try:
            for turn in turns:
                if living := [each for each in deployers if not each.ended]:
                    self._run_turn(living[turn.deployer % len(living)], turn.operations)
            while living := [each for each in deployers if not each.ended]:
                self._run_turn(min(living, key=lambda each: max(each.wakes_at, self._seconds)), _MOST_OPERATIONS)
        finally:
            for deployer in deployers:
                deployer.kill()

    def violated(self, error: BaseException) -> None:
        """Note what was violated first; `run` raises it."""
        self._violation = self._violation or error

    def operate(self, call: Callable[[], Any]) -> Any:
        """Carry out one operation of the deployer whose turn it is; without one, at once."""
        deployer = self._running
        if deployer is None:
            return call()
        deployer.before_operation()
        try:
            result = call()
            self._check()
        except AssertionError as error:
            self.violated(error)
            deployer.dead = True
            raise Killed from error
        return result

    def _run_turn(self, deployer: Deployer, operations: int) -> None:
        self._move_time(deployer.wakes_at)
        self._running = deployer
        deployer.go_on(operations)
        self._running = None
        if self._violation is not None:
            raise self._violation
        assert deployer.operations < _MOST_OPERATIONS, "a deployer never ends"

    def _move_time(self, time: float) -> None:
        while self._seconds < time:
            self._seconds = min(time, self._seconds + RENEW_SECONDS)
            for lease, (owner, renewed_at) in list(self._leases.items()):
                if (owner is None or not owner.dead) and self._seconds - renewed_at >= RENEW_SECONDS:
                    lease.renew()
                    self._leases[lease] = (owner, self._seconds)
            self._on_time()

    # --- the clock of the deployers, and what else would take real time or run in threads ----------------------------

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        if self._running is None:
            self._move_time(self._seconds + seconds)
        else:
            self._running.sleep_until(self._seconds + seconds)

    @contextmanager
    def renewed(self, lease: Lease) -> Iterator[None]:
        """Renew `lease` for the block whenever time moves, as long as its deployer lives."""
        self._leases[lease] = (self._running, self._seconds)
        try:
            yield
        finally:
            del self._leases[lease]

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Put this in place of the threads and clocks that the steps make themselves."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tfs_deploy.deployment.lease.renewed", self.renewed)
            patch.setattr("tfs_deploy.deployment.record_log.SystemClock", lambda: self)
            patch.setattr("tfs_deploy.serving.concurrent_calls.ThreadPoolExecutor", _OneAfterTheOther)
            yield


class _OneAfterTheOther:
    """An executor that runs each call when it is submitted, so that the calls of a deployer have one order."""

    def __init__(self, max_workers: int) -> None:
        pass

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options: Any) -> None:
        pass


class Scheduled:
    """Let every method call of `wrapped` be an operation of the scheduler."""

    def __init__(self, wrapped: Any, scheduler: Scheduler) -> None:
        self._wrapped = wrapped
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._scheduler.operate(lambda: value(*args, **kwargs))


class ScheduledStore(Scheduled):
    """A store whose documents are scheduled too."""

    @property
    def documents(self) -> Any:
        return Scheduled(self._wrapped.documents, self._scheduler)

    def read(self, model: str, version: int, path: str) -> bytes:
        """No operation: published bytes never change, and `functools.cached_property` of Python 3.11 holds a lock."""
        content: bytes = self._wrapped.read(model, version, path)
        return content
