"""What became of the requests: a report per phase and version, and the recorder that it is made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tfs_deploy.clock import Clock
from tfs_deploy.traffic.histogram import LatencyHistogram

# The name of the phase before the first mark.
FIRST_PHASE = "start"
# More changes of version than this make no new phase, so that a report stays readable and its memory bounded.
MAX_PHASES = 1000
MAX_QUOTED_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds, at most 2 percent too high; of answered requests only."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class VersionTraffic:
    """What one version answered."""

    version: int
    answered: int
    latency: Latency


@dataclass(frozen=True, slots=True)
class PhaseTraffic:
    """The requests that were due in one phase; `start_seconds` counts from the first request.

    `versions` are those that answered. `rate` is the number of requests per second that ended, answered or failed.
    `latency` is None without an answer.
    """

    name: str
    start_seconds: float
    seconds: float
    requests: int
    failed: int
    rate: float
    failures: dict[str, int]
    latency: Latency | None
    versions: tuple[VersionTraffic, ...]


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """The outcome of a run; `errors` quotes the first different ones, `ended_early` says why if it did."""

    total: PhaseTraffic
    phases: tuple[PhaseTraffic, ...]
    errors: tuple[str, ...]
    longest_start_delay_ms: float
    ended_early: str = ""


@dataclass(slots=True)
class Phase:
    """The counts of one phase while the traffic runs."""

    name: str
    start: float
    serving: frozenset[int]
    end: float | None = None
    failures: Counter[str] = field(default_factory=Counter)
    latencies: dict[int, LatencyHistogram] = field(default_factory=dict)


class TrafficRecorder:
    """Counts requests by phase; a phase ends at a mark, or when other versions than before answer.

    Which versions answer is what each replica's newest request was answered by, so that a late answer of the version
    before does not look like a change.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self._phases = [Phase(FIRST_PHASE, self._start, frozenset())]
        self._newest: dict[str, tuple[int, int]] = {}
        self._errors: dict[str, None] = {}
        self.longest_start_delay = 0.0

    @property
    def phase(self) -> Phase:
        """Return the current phase."""
        return self._phases[-1]

    def start(self, versions: dict[str, int]) -> None:
        """Begin now; `versions` is the version that each replica serves, as far as it is known."""
        self._newest = {target: (-1, version) for target, version in versions.items()}
        self._start = self._clock.monotonic()
        self._phases = [Phase(FIRST_PHASE, self._start, self._serving())]

    def mark(self, name: str) -> None:
        """Begin a phase called `name`; without a name it is called after its number."""
        if len(self._phases) < 2 * MAX_PHASES:
            self._begin(name or f"mark {len({phase.name for phase in self._phases})}")

    def answered(self, phase: Phase, target: str, number: int, version: int, seconds: float) -> None:
        """Count an answer to request `number`, which was due in `phase`; it may begin the next phase."""
        newest = self._newest.get(target)
        if newest is None or number > newest[0]:
            self._newest[target] = (number, version)
            if newest is None or newest[1] != version:
                phase = self._change_versions(phase, version)
        phase.latencies.setdefault(version, LatencyHistogram()).record(seconds)

    def failed(self, phase: Phase, code: str, error: str) -> None:
        """Count a request of `phase` that failed with the gRPC status `code`."""
        phase.failures[code] += 1
        if len(self._errors) < MAX_QUOTED_ERRORS:
            self._errors.setdefault(error)

    def phases_since(self, first: int) -> tuple[PhaseTraffic, ...]:
        """Return the phases from the one with index `first` on, as they are now."""
        now = self._clock.monotonic()
        return tuple(self._summary(phase, now) for phase in self._phases[first:])

    def report(self, *, ended_early: str = "") -> TrafficReport:
        """Return what was counted up to now."""
        now = self._clock.monotonic()
        total = Phase("total", self._start, frozenset())
        for phase in self._phases:
            total.failures.update(phase.failures)
            for version, histogram in phase.latencies.items():
                total.latencies.setdefault(version, LatencyHistogram()).add(histogram)
        return TrafficReport(
            total=self._summary(total, now),
            phases=tuple(self._summary(phase, now) for phase in self._phases),
            errors=tuple(self._errors),
            longest_start_delay_ms=_milliseconds(self.longest_start_delay),
            ended_early=ended_early,
        )

    def _change_versions(self, phase: Phase, version: int) -> Phase:
        """Begin a phase if the set of serving versions changed; return the phase of an answer of `version`."""
        if self._serving() == self.phase.serving or len(self._phases) >= MAX_PHASES:
            return phase
        self._begin(self.phase.name)
        return self.phase if version in self.phase.serving else phase

    def _begin(self, name: str) -> None:
        now = self._clock.monotonic()
        self.phase.end = now
        self._phases.append(Phase(name, now, self._serving()))

    def _serving(self) -> frozenset[int]:
        return frozenset(version for _, version in self._newest.values())

    def _summary(self, phase: Phase, now: float) -> PhaseTraffic:
        seconds = (now if phase.end is None else phase.end) - phase.start
        answered, failed = LatencyHistogram(), sum(phase.failures.values())
        for histogram in phase.latencies.values():
            answered.add(histogram)
        return PhaseTraffic(
            name=phase.name,
            start_seconds=round(phase.start - self._start, 3),
            seconds=round(seconds, 3),
            requests=answered.count + failed,
            failed=failed,
            rate=round((answered.count + failed) / seconds, 2) if seconds > 0 else 0.0,
            failures=dict(sorted(phase.failures.items())),
            latency=_latency(answered) if answered.count else None,
            versions=tuple(
                VersionTraffic(version, histogram.count, _latency(histogram))
                for version, histogram in sorted(phase.latencies.items())
            ),
        )


def _latency(histogram: LatencyHistogram) -> Latency:
    p50, p90, p99 = (_milliseconds(histogram.percentile(share)) for share in (0.5, 0.9, 0.99))
    return Latency(p50, p90, p99, _milliseconds(histogram.longest))


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
