"""The versions of a model server as contract 3 to 5 tell them, in the plainest form: nothing of the server is used."""

from __future__ import annotations

from dataclasses import dataclass, field

RETRIES = 2


@dataclass
class Version:
    """One managed version; `phase` is new, loading, ready, unloading, gone or failed."""

    aspired: bool = True
    phase: str = "new"
    tries: int = 0


@dataclass
class Reference:
    """What is on disk, what is configured, what is managed, what answers, and everything that happened."""

    allow_unavailable: bool
    disk: dict[str, set[int] | None] = field(default_factory=dict)
    bad: set[tuple[str, int]] = field(default_factory=set)
    config: dict[str, tuple[str, frozenset[int] | int]] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    pending: dict[str, frozenset[int]] = field(default_factory=dict)
    managed: dict[str, dict[int, Version]] = field(default_factory=dict)
    serving: set[tuple[str, int]] = field(default_factory=set)
    events: list[tuple[str, int, str, str]] = field(default_factory=list)

    def tell(self, name: str, version: int, state: str, code: str = "OK") -> None:
        self.events.append((name, version, state, code))

    def state(self, name: str, version: int) -> str | None:
        """The last event of a version is its row."""
        return next((state for n, v, state, _ in reversed(self.events) if (n, v) == (name, version)), None)

    def reload(self, config: dict[str, tuple[str, frozenset[int] | int]], labels: dict[str, dict[str, int]]) -> bool:
        """5.2 and 5.4: labels first, and if one may not be, nothing of the config is done."""
        for name, wanted in labels.items():
            for label, version in wanted.items():
                now = self.labels.get(name, {}).get(label, version)
                excused = self.allow_unavailable and now == version
                if self.state(name, version) != "AVAILABLE" and not excused:
                    return False
        self.labels = labels
        for name in self.config:
            if name not in config:
                self.pending[name] = frozenset()
        self.config = config
        return True

    def poll(self) -> None:
        """3.3: one missing base path, and nobody hears anything."""
        if any(self.disk[name] is None for name in self.config):
            return
        for name, (policy, argument) in self.config.items():
            there = sorted(self.disk[name] or ())
            if policy == "latest":
                there = there[-max(argument, 1) :]
            elif policy == "specific":
                there = [version for version in there if version in argument]
            self.pending[name] = frozenset(there)

    def tick(self) -> None:
        """4.1 and 4.3: forget, take over what is aspired unless it is parked, then at most one action."""
        for versions in self.managed.values():
            for number in [n for n, v in versions.items() if not v.aspired and v.phase in ("new", "gone", "failed")]:
                del versions[number]
        for name, wanted in list(self.pending.items()):
            versions = self.managed.setdefault(name, {})
            if any(number in wanted and not version.aspired for number, version in versions.items()):
                continue
            del self.pending[name]
            for number, version in versions.items():
                version.aspired = number in wanted
            for number in sorted(wanted - versions.keys()):
                versions[number] = Version()
                self.tell(name, number, "START")
        if not self._unload_one():
            self._load_one()

    def _unload_one(self) -> bool:
        for name in sorted(self.managed):
            versions = self.managed[name]
            aspired = [version for version in versions.values() if version.aspired]
            leaving = [n for n, version in versions.items() if version.phase == "ready" and not version.aspired]
            if leaving and (not aspired or any(v.phase == "ready" for v in aspired) or len(leaving) > 1):
                versions[min(leaving)].phase = "unloading"
                return True
        return False

    def _load_one(self) -> None:
        for name in sorted(self.managed):
            new = [n for n, version in self.managed[name].items() if version.phase == "new" and version.aspired]
            if new:
                self.managed[name][max(new)].phase = "loading"
                return

    def begin_load(self, name: str, number: int) -> None:
        self.tell(name, number, "LOADING")

    def try_load(self, name: str, number: int) -> bool:
        """One attempt; tell whether it was the last one."""
        version = self.managed[name][number]
        version.tries += 1
        if (name, number) in self.bad:
            if version.aspired and version.tries <= RETRIES:
                return False
            version.phase = "failed"
            self.tell(name, number, "END", "NOT_FOUND")
        elif version.aspired:
            version.phase = "ready"
            self._publish()
            self.tell(name, number, "AVAILABLE")
        else:
            version.phase = "gone"
            self.tell(name, number, "END", "CANCELLED")
        return True

    def unload(self, name: str, number: int) -> None:
        self.tell(name, number, "UNLOADING")
        self._publish()
        self.managed[name][number].phase = "gone"
        self.tell(name, number, "END")

    def _publish(self) -> None:
        self.serving = {(n, k) for n, vs in self.managed.items() for k, v in vs.items() if v.phase == "ready"}

    def answers(self, name: str) -> int | None:
        return max((number for n, number in self.serving if n == name), default=None)
