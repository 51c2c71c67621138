"""The loop of a sync agent: look at the store, look at the disk, do what the plan says, tell what is held.

A pass never waits for a transfer: that is the job of one thread beside the loop, so that a label that moves, or a
version that is taken back, is seen while gigabytes are on their way.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Set
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.deployment.sync_agents import AgentErrorKind, AgentProblem
from tfs_deploy.errors import CorruptModel, Permanent, TFSDeployError
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.disk import Found, ReplicaDisk
from tfs_deploy.sync.downloader import Abandoned, Downloader
from tfs_deploy.sync.failures import Troubles
from tfs_deploy.sync.figures import Figures
from tfs_deploy.sync.plan import DiskView, Need, Plan, VersionName, plan
from tfs_deploy.sync.reporting import Reporter
from tfs_deploy.sync.required_versions import DesiredStateVersions, LatestModeVersions, Needs
from tfs_deploy.sync.settings import AgentSettings
from tfs_deploy.sync.startup_file import StartupFile
from tfs_deploy.sync.verification import Trust

logger = logging.getLogger(__name__)

Launch = Callable[[Callable[[], None]], "Future[None]"]


def in_a_thread(work: Callable[[], None]) -> Future[None]:
    """Run `work` beside the caller, in a thread that does not keep the process alive."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="tfs-deploy-sync", daemon=True).start()
    return future


@dataclass(frozen=True, slots=True)
class _Job:
    name: VersionName
    checking: bool
    abandoned: threading.Event
    future: Future[None]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the agent is: `needed` None, nobody has said yet what is needed; `ready`, all of it is on the disk.

    `settled`: nothing is left to try at once; what is missing then is among the problems, or a model of `without`,
    which has no version yet.
    """

    needed: tuple[VersionName, ...] | None = None
    without: tuple[str, ...] = ()
    held: frozenset[VersionName] = frozenset()
    problems: tuple[AgentProblem, ...] = ()
    exit_codes: frozenset[int] = frozenset()
    ready: bool = False
    settled: bool = False


class Agent:
    """One agent on one disk. `poll` is one pass, `close` the end; neither raises what a later pass can cure."""

    def __init__(
        self,
        store: Store,
        disk: ReplicaDisk,
        settings: AgentSettings,
        *,
        clock: Clock | None = None,
        figures: Figures | None = None,
        launch: Launch = in_a_thread,
        reports: bool = True,
    ) -> None:
        """`reports`: tell the store what is held; `wake` is set whenever there is a reason for a pass at once."""
        self.settings = settings
        self.figures = figures or Figures()
        self.wake = threading.Event()
        self._disk = disk
        self._clock = clock or SystemClock()
        self._launch = launch
        self._needs: Needs = (
            LatestModeVersions(store, settings.latest)
            if settings.latest
            else DesiredStateVersions(store.documents, settings.group)
        )
        self._trust = Trust(store, disk, deep=settings.deep)
        self._bringer = Downloader(store, disk, self._trust, self.figures, self._clock)
        self._reporter = Reporter(store.documents, settings.group, settings.name, self._clock) if reports else None
        self._startup = StartupFile(settings.startup_config, disk.files) if settings.startup_config else None
        self._troubles = Troubles()
        self._need: Need | None = None
        self._job: _Job | None = None
        self._idle_since: dict[VersionName, float] = {}
        self._told: frozenset[VersionName] = frozenset()
        self.standing = Standing()

    def poll(self) -> None:
        """Make one pass, and leave in `standing` how far the agent is."""
        self._end_job()
        heard = self._read_need()
        found, held, todo = Found(), frozenset[VersionName](), Plan()
        ready = False
        try:
            found = self._disk.look()
            held = frozenset(self._trust.among(found.ours))
            if self._need is not None:
                todo = self._act(self._need, found, held)
            current = self._write_startup(held)
            ready = current and self._is_ready(found, held)
            self._troubles.clear("the model root")
            if heard:
                # Nothing is removed on hearsay, and nothing that servers see while the start-up file may name it. What
                # they do not see goes in any case: what is missing may wait for its room.
                held -= self._tidy(todo if current else replace(todo, remove=()), found)
        except TFSDeployError as error:
            self._troubles.add("the model root", error, now=self._clock.monotonic())
        self._tell(held, ready=ready, heard=heard)

    def close(self, *, seconds: float = 1.0) -> bool:
        """Break off what is on its way, withdraw the report; return whether all of it ended within `seconds` each."""
        ended = True
        if self._job is not None:
            self._job.abandoned.set()
            done = threading.Event()
            self._job.future.add_done_callback(lambda _: done.set())
            ended = done.wait(seconds)
        if self._reporter is not None:
            # In a thread, because the store may be away.
            future = in_a_thread(self._reporter.withdraw)
            try:
                future.result(seconds)
            except FutureTimeoutError:
                ended = False
            except TFSDeployError as error:
                logger.warning("The report was not withdrawn: %s", error)
        return ended

    def _read_need(self) -> bool:
        """Ask what is needed, and return whether the store has answered."""
        now = self._clock.monotonic()
        if not self._troubles.may_try("the store", now):
            return False
        try:
            self._need = self._needs.read()
        except TFSDeployError as error:
            self._troubles.add("the store", error, now=now)
            return False
        self._troubles.clear("the store")
        return True

    def _act(self, need: Need, found: Found, held: Set[VersionName]) -> Plan:
        """Make folders, begin with what is to be brought, and return the plan, whose removals are left to do."""
        self._troubles.keep_only(need.versions)
        view = DiskView(found.folders, found.shown, frozenset(found.ours), held, found.staged)
        todo = plan(need, view, keep=self.settings.keep, rested=self._rested(need, found))
        for model in todo.make_folders:
            self._disk.make_folder(model)
        self._look_at_strangers(need, found)
        self._work_on(need, todo, found, held)
        return todo

    def _rested(self, need: Need, found: Found) -> frozenset[VersionName]:
        now = self._clock.monotonic()
        idle = set(found.ours) - set(need.versions)
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        return frozenset(name for name, since in self._idle_since.items() if now - since >= self.settings.linger)

    def _look_at_strangers(self, need: Need, found: Found) -> None:
        """Report numbers that somebody else uses; they are never touched."""
        strangers = found.shown - set(found.ours)
        for name in sorted(strangers & set(need.versions)):
            if not self._troubles.tried(name):
                error = CorruptModel(
                    f"{str(self._disk.directory(name))!r} is not from a store: it has no manifest.",
                    "It may be live, so it is left alone; remove it by hand while no server serves it.",
                )
                self._troubles.add(name, error, now=self._clock.monotonic(), kind=AgentErrorKind.DIFFERS)
        for name in sorted(strangers - self._told - set(need.versions)):
            logger.info("Left alone, because it has no manifest: %s", self._disk.directory(name))
        self._told = frozenset(strangers)

    def _work_on(self, need: Need, todo: Plan, found: Found, held: Set[VersionName]) -> None:
        """Keep one job going: the most urgent version that is not held and may be tried."""
        if self._job is not None:
            if self._job.name not in need.versions:
                self._job.abandoned.set()
            return
        now = self._clock.monotonic()
        for name in need.versions:
            checking = name in found.ours and name not in held
            if (checking or name in todo.bring) and self._troubles.may_try(name, now):
                self._start(name, checking=checking)
                return

    def _start(self, name: VersionName, *, checking: bool) -> None:
        abandoned = threading.Event()

        def work() -> None:
            if checking:
                self._bringer.check(name)
            else:
                self._bringer.bring(name, abandoned)

        self._job = _Job(name, checking, abandoned, self._launch(work))
        self._job.future.add_done_callback(lambda _: self.wake.set())

    def _end_job(self) -> None:
        """Take in how the job ended, if it did."""
        job = self._job
        if job is None or not job.future.done():
            return
        self._job = None
        error = job.future.exception()
        now = self._clock.monotonic()
        if error is None:
            self._troubles.clear(job.name)
        elif isinstance(error, TFSDeployError):
            wrong_here = job.checking and isinstance(error, CorruptModel)
            self._troubles.add(job.name, error, now=now, kind=AgentErrorKind.DIFFERS if wrong_here else None)
        elif not isinstance(error, Abandoned):
            logger.error("Unexpected, while bringing %s", job.name, exc_info=error)
            told = Permanent(f"Unexpected {type(error).__name__}: {error}.", "Read the agent's log.")
            self._troubles.add(job.name, told, now=now, kind=AgentErrorKind.FAILED)

    def _tidy(self, todo: Plan, found: Found) -> frozenset[VersionName]:
        """Remove what is to go, and return what may be gone."""
        now = self._clock.monotonic()
        if not self._troubles.may_try("the removal", now):
            return frozenset()
        try:
            for name in todo.remove:
                logger.info("Removing %s, which is no longer needed", name)
                self._disk.remove(name)
            for name in todo.discard:
                if self._job is None or self._job.name != name:
                    self._disk.discard(name)
            for path in found.leftovers:
                self._disk.clear(path)
        except TFSDeployError as error:
            self._troubles.add("the removal", error, now=now)
        else:
            self._troubles.clear("the removal")
        return frozenset(todo.remove)

    def _write_startup(self, held: Set[VersionName]) -> bool:
        """Bring the start-up file up to date and return whether it says what it should."""
        if self._startup is None:
            return True
        if self._need is None and self._troubles.tried("the store"):
            return False
        try:
            done = self._startup.bring_up_to_date(self._needs.state, held)
        except TFSDeployError as error:
            self._troubles.add("the start-up config file", error, now=self._clock.monotonic())
            return False
        self._troubles.clear("the start-up config file")
        return done

    def _is_ready(self, found: Found, held: Set[VersionName]) -> bool:
        need = self._need
        if need is None or need.without:
            return False
        # Folders that this pass has made are seen by the next one.
        return set(need.models) <= found.folders and set(need.versions) <= held

    def _tell(self, held: frozenset[VersionName], *, ready: bool, heard: bool) -> None:
        now = self._clock.monotonic()
        if self._reporter is not None and self._troubles.may_try("the report", now):
            try:
                self._reporter.report(held, self._troubles.problems())
                self._troubles.clear("the report")
            except TFSDeployError as error:
                self._troubles.add("the report", error, now=now)
        needed = None if self._need is None else self._need.versions
        self.standing = Standing(
            needed,
            () if self._need is None else self._need.without,
            held,
            self._troubles.problems(),
            self._troubles.exit_codes(),
            ready=ready,
            settled=self._job is None and (ready or not self._anything_to_try(held)),
        )
        counts = Counter(name.model for name in held)
        self.figures.passed(
            at=self._clock.now().timestamp(),
            success=heard,
            held=counts,
            needed=len(needed or ()),
            ready=ready,
            failures=self._troubles.counts,
        )

    def _anything_to_try(self, held: Set[VersionName]) -> bool:
        """Tell whether something is missing that has not been tried since it last worked."""
        if self._need is None:
            return False
        missing = [name for name in self._need.versions if name not in held]
        if missing:
            return not all(self._troubles.tried(name) for name in missing)
        return not (self._need.without or self._troubles.problems())
