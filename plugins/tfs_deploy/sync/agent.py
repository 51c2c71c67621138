"""The loop of a sync agent: read the store, scan the disk, carry out the plan, report what is held.

Downloads run in one thread beside the loop. A pass never waits for them, so the agent sees a moved label or a withdrawn
version while gigabytes are being copied.
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
from tfs_deploy.errors import CorruptModel, Permanent, Refused, TFSDeployError
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.disk import DiskContents, ReplicaDisk
from tfs_deploy.sync.downloader import DownloadCancelled, Downloader, Verification
from tfs_deploy.sync.failures import Failures
from tfs_deploy.sync.metrics import Metrics
from tfs_deploy.sync.plan import DiskView, Plan, RequiredVersions, VersionName, plan
from tfs_deploy.sync.reporting import Reporter
from tfs_deploy.sync.required_versions import DesiredStateVersions, LatestModeVersions, RequiredVersionsSource
from tfs_deploy.sync.settings import AgentSettings
from tfs_deploy.sync.startup_file import StartupFile

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
    cancelled: threading.Event
    future: Future[None]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The outcome of the last pass.

    `needed`: the required versions, None while the store has not named any; `without`: models that have no version yet;
    `ready`: every required version is on the disk; `idle`: the agent has nothing to do before its next retry. The
    placeholder counts as no version here.
    """

    needed: tuple[VersionName, ...] | None = None
    without: tuple[str, ...] = ()
    held: frozenset[VersionName] = frozenset()
    problems: tuple[AgentProblem, ...] = ()
    exit_codes: frozenset[int] = frozenset()
    ready: bool = False
    idle: bool = False


class Agent:
    """One agent on one disk: `poll` makes a pass, `close` ends it. Neither raises what a later pass can cure."""

    def __init__(
        self,
        store: Store,
        disk: ReplicaDisk,
        settings: AgentSettings,
        *,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        launch: Launch = in_a_thread,
        reports: bool = True,
    ) -> None:
        """`reports`: write the agent's report into the store. The event `wake` is set when a pass is due at once."""
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.wake = threading.Event()
        self._disk = disk
        self._clock = clock or SystemClock()
        self._launch = launch
        self._source: RequiredVersionsSource = (
            LatestModeVersions(store, settings.latest)
            if settings.latest
            else DesiredStateVersions(store.documents, settings.group)
        )
        self._verification = Verification(store, disk, deep=settings.deep)
        self._downloader = Downloader(store, disk, self._verification, self.metrics, self._clock)
        self._reporter = Reporter(store.documents, settings.group, settings.name, self._clock) if reports else None
        self._startup = StartupFile(settings.startup_config, disk.files) if settings.startup_config else None
        self._failures = Failures()
        self._required: RequiredVersions | None = None
        self._job: _Job | None = None
        self._unneeded_since: dict[VersionName, float] = {}
        self._logged_foreign: frozenset[VersionName] = frozenset()
        self.status = AgentStatus()

    def poll(self) -> None:
        """Make one pass and update `status`."""
        self._end_job()
        store_answered = self._read_required()
        contents, held, actions = DiskContents(), frozenset[VersionName](), Plan()
        placeholders = frozenset[VersionName]()
        ready = False
        try:
            contents = self._disk.scan()
            held = frozenset(self._verification.verified(contents.ours))
            if self._required is not None:
                actions = self._act(self._required, contents, held)
            placeholders = self._put_placeholders(contents)
            current = self._write_startup(held)
            ready = current and self._is_ready(contents, held | placeholders)
            self._failures.clear("the model root")
            if store_answered:
                # Without an answer of the store nothing is removed. A version that servers see also stays while the
                # start-up file may name it; stages and leftovers go, since a download may wait for their space. So do
                # placeholders: the desired state drops one once the version above it answers on every replica.
                unneeded = placeholders.difference(() if self._required is None else self._required.placeholders)
                remove = (*(actions.remove if current else ()), *sorted(unneeded))
                gone = self._remove_unneeded(replace(actions, remove=remove), contents)
                held, placeholders = held - gone, placeholders - gone
        except TFSDeployError as error:
            self._failures.add("the model root", error, now=self._clock.monotonic())
        self._publish_status(held, placeholders, ready=ready, store_answered=store_answered)

    def close(self, *, seconds: float = 1.0) -> bool:
        """Cancel the download and withdraw the report; return whether each of them ended within `seconds`."""
        ended = True
        if self._job is not None:
            self._job.cancelled.set()
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

    def _read_required(self) -> bool:
        """Read the required versions and return whether the store answered."""
        now = self._clock.monotonic()
        if not self._failures.may_try("the store", now):
            return False
        try:
            self._required = self._source.read()
        except TFSDeployError as error:
            self._failures.add("the store", error, now=now)
            return False
        self._failures.clear("the store")
        return True

    def _act(self, required: RequiredVersions, contents: DiskContents, held: Set[VersionName]) -> Plan:
        """Make folders and start a job; return the plan, whose removals the caller does."""
        self._failures.keep_only((*required.versions, *required.placeholders))
        view = DiskView(contents.folders, contents.shown, frozenset(contents.ours), held, contents.staged)
        actions = plan(required, view, keep=self.settings.keep, expired=self._expired(required, contents))
        for model in actions.make_folders:
            self._disk.make_folder(model)
        self._report_foreign(required, contents)
        self._work_on(required, actions, contents, held)
        return actions

    def _put_placeholders(self, contents: DiskContents) -> frozenset[VersionName]:
        """Show the required placeholders, and return all that are shown."""
        required = () if self._required is None else self._required.placeholders
        shown, now = set(contents.placeholders), self._clock.monotonic()
        for name in required:
            if name in shown or not self._failures.may_try(name, now):
                continue
            try:
                self._disk.put_placeholder(name.model)
            except TFSDeployError as error:
                kind = AgentErrorKind.DIFFERS if isinstance(error, Refused) else None
                self._failures.add(name, error, now=now, kind=kind)
            else:
                self._failures.clear(name)
                shown.add(name)
        return frozenset(shown)

    def _expired(self, required: RequiredVersions, contents: DiskContents) -> frozenset[VersionName]:
        now = self._clock.monotonic()
        idle = set(contents.ours) - set(required.versions)
        self._unneeded_since = {name: self._unneeded_since.get(name, now) for name in idle}
        return frozenset(name for name, since in self._unneeded_since.items() if now - since >= self.settings.linger)

    def _report_foreign(self, required: RequiredVersions, contents: DiskContents) -> None:
        """Report versions without a manifest, which are never changed."""
        foreign = contents.shown - set(contents.ours)
        for name in sorted(foreign & set(required.versions)):
            if not self._failures.has_failed(name):
                error = CorruptModel(
                    f"{str(self._disk.directory(name))!r} is not from a store: it has no manifest.",
                    "It may be live, so it is left alone; remove it by hand while no server serves it.",
                )
                self._failures.add(name, error, now=self._clock.monotonic(), kind=AgentErrorKind.DIFFERS)
        for name in sorted(foreign - self._logged_foreign - set(required.versions)):
            logger.info("Left alone, because it has no manifest: %s", self._disk.directory(name))
        self._logged_foreign = frozenset(foreign)

    def _work_on(
        self, required: RequiredVersions, actions: Plan, contents: DiskContents, held: Set[VersionName]
    ) -> None:
        """Start a job for the most urgent missing version, unless one runs; cancel one that is no longer needed."""
        if self._job is not None:
            if self._job.name not in required.versions:
                self._job.cancelled.set()
            return
        now = self._clock.monotonic()
        for name in required.versions:
            checking = name in contents.ours and name not in held
            if (checking or name in actions.download) and self._failures.may_try(name, now):
                self._start(name, checking=checking)
                return

    def _start(self, name: VersionName, *, checking: bool) -> None:
        cancelled = threading.Event()

        def work() -> None:
            if checking:
                self._downloader.check(name)
            else:
                self._downloader.download(name, cancelled)

        self._job = _Job(name, checking, cancelled, self._launch(work))
        self._job.future.add_done_callback(lambda _: self.wake.set())

    def _end_job(self) -> None:
        """Record the result of the job if it has ended."""
        job = self._job
        if job is None or not job.future.done():
            return
        self._job = None
        error = job.future.exception()
        now = self._clock.monotonic()
        if error is None:
            self._failures.clear(job.name)
        elif isinstance(error, TFSDeployError):
            differs = job.checking and isinstance(error, CorruptModel)
            self._failures.add(job.name, error, now=now, kind=AgentErrorKind.DIFFERS if differs else None)
        elif not isinstance(error, DownloadCancelled):
            logger.error("Unexpected, while downloading %s", job.name, exc_info=error)
            unexpected = Permanent(f"Unexpected {type(error).__name__}: {error}.", "Read the agent's log.")
            self._failures.add(job.name, unexpected, now=now, kind=AgentErrorKind.FAILED)

    def _remove_unneeded(self, actions: Plan, contents: DiskContents) -> frozenset[VersionName]:
        """Carry out the removals of the plan and return the versions that may be gone."""
        now = self._clock.monotonic()
        if not self._failures.may_try("the removal", now):
            return frozenset()
        try:
            for name in actions.remove:
                logger.info("Removing %s, which is no longer needed", name)
                self._disk.remove(name)
            for name in actions.discard:
                if self._job is None or self._job.name != name:
                    self._disk.discard(name)
            for path in contents.leftovers:
                self._disk.clear(path)
        except TFSDeployError as error:
            self._failures.add("the removal", error, now=now)
        else:
            self._failures.clear("the removal")
        return frozenset(actions.remove)

    def _write_startup(self, held: Set[VersionName]) -> bool:
        """Update the start-up file and return whether it is current."""
        if self._startup is None:
            return True
        if self._required is None and self._failures.has_failed("the store"):
            return False
        try:
            done = self._startup.update(self._source.state, held)
        except TFSDeployError as error:
            self._failures.add("the start-up config file", error, now=self._clock.monotonic())
            return False
        self._failures.clear("the start-up config file")
        return done

    def _is_ready(self, contents: DiskContents, held: Set[VersionName]) -> bool:
        required = self._required
        if required is None or required.without:
            return False
        # The next pass sees the folders that this one has made.
        return set(required.models) <= contents.folders and {*required.versions, *required.placeholders} <= held

    def _publish_status(
        self, held: frozenset[VersionName], placeholders: Set[VersionName], *, ready: bool, store_answered: bool
    ) -> None:
        now = self._clock.monotonic()
        if self._reporter is not None and self._failures.may_try("the report", now):
            try:
                self._reporter.report(held | placeholders, self._failures.problems())
                self._failures.clear("the report")
            except TFSDeployError as error:
                self._failures.add("the report", error, now=now)
        needed = None if self._required is None else self._required.versions
        self.status = AgentStatus(
            needed,
            () if self._required is None else self._required.without,
            held,
            self._failures.problems(),
            self._failures.exit_codes(),
            ready=ready,
            idle=self._job is None and (ready or not self._anything_to_try(held)),
        )
        counts = Counter(name.model for name in held)
        self.metrics.record_pass(
            at=self._clock.now().timestamp(),
            success=store_answered,
            held=counts,
            needed=len(needed or ()),
            ready=ready,
            failures=self._failures.counts,
        )

    def _anything_to_try(self, held: Set[VersionName]) -> bool:
        """Tell whether a missing version has had no failed attempt."""
        if self._required is None:
            return False
        missing = [name for name in self._required.versions if name not in held]
        if missing:
            return not all(self._failures.has_failed(name) for name in missing)
        return not (self._required.without or self._failures.problems())
