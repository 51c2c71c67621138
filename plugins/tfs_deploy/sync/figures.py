"""The numbers of one agent, as its loop and its downloads count them; what shows them reads a copy."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tfs_deploy.deployment.sync_agents import AgentErrorKind


@dataclass(frozen=True, slots=True)
class Numbers:
    """A moment's numbers; times are seconds since the epoch, None: never."""

    received_bytes: int = 0
    brought_versions: int = 0
    bringing_seconds: float = 0.0
    held: Mapping[str, int] = field(default_factory=dict)
    needed: int = 0
    failures: Mapping[AgentErrorKind, int] = field(default_factory=dict)
    last_pass: float | None = None
    last_success: float | None = None
    ready: bool = False


class Figures:
    """Counts; safe among threads."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._lock = threading.Lock()

    def received(self, count: int) -> None:
        """Add bytes that a download has put on the disk, or found there already."""
        with self._lock:
            self._numbers = replace(self._numbers, received_bytes=self._numbers.received_bytes + count)

    def brought(self, seconds: float) -> None:
        """Add a version that has been brought."""
        with self._lock:
            now = self._numbers
            self._numbers = replace(
                now, brought_versions=now.brought_versions + 1, bringing_seconds=now.bringing_seconds + seconds
            )

    def passed(
        self,
        *,
        at: float,
        success: bool,
        held: Mapping[str, int],
        needed: int,
        ready: bool,
        failures: Counter[AgentErrorKind],
    ) -> None:
        """Note the end of a pass of the loop; `success`: the store said what is needed."""
        with self._lock:
            self._numbers = replace(
                self._numbers,
                held=dict(held),
                needed=needed,
                ready=ready,
                failures=dict(failures),
                last_pass=at,
                last_success=at if success else self._numbers.last_success,
            )

    def numbers(self) -> Numbers:
        """Return them as they are now."""
        with self._lock:
            return self._numbers
