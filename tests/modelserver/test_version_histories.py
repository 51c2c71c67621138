"""Random histories of directories, configs, labels and failures: the parts of the server beside `reference`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelserver.reference import RETRIES, Reference
from modelserver.wire import model
from modelserver.world import World
from tfs_deploy.modelserver.lifecycle.model_config import watched
from tfs_deploy.modelserver.lifecycle.serving_map import Labels
from tfs_deploy.modelserver.lifecycle.source import StoragePathSource
from tfs_deploy.modelserver.status import StatusError

NAMES = ("a", "b")
LABELS = ("stable", "canary")
NUMBERS = st.integers(1, 4)
POLICIES = st.one_of(
    st.tuples(st.just("latest"), st.integers(0, 3)),
    st.tuples(st.just("all"), st.just(0)),
    st.tuples(st.just("specific"), st.frozensets(NUMBERS, max_size=3)),
)
MODELS = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(POLICIES, st.dictionaries(st.sampled_from(LABELS), NUMBERS, max_size=2))
)


class Disk:
    """The base paths of the reference, as files."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def exists(self, path: str) -> bool:
        _, name, *version = path.split("/")
        there = self._reference.disk[name]
        return there is not None and (not version or int(version[0]) in there)

    def children(self, path: str) -> Iterable[str]:
        return [*map(str, self._reference.disk[path[1:]] or ()), "staged", "9.tmp"]


class VersionHistories(RuleBasedStateMachine):
    """Source, manager, labels and serving map beside the reference; every rule is done to both."""

    @initialize(
        allow_unavailable=st.booleans(),
        there=st.sets(NUMBERS, max_size=2),
        bad=st.sets(st.tuples(st.sampled_from(NAMES), NUMBERS)),
    )
    def start(self, allow_unavailable, there, bad):
        self.world = World(retries=RETRIES)
        self.reference = Reference(allow_unavailable, disk={name: set(there) for name in NAMES}, bad=set(bad))
        self.world.bad = self.reference.bad
        self.source = StoragePathSource(self.world.manager.set_aspired, -1, Disk(self.reference))
        self.labels = Labels(self.world.monitor, allow_unavailable)
        self.loads: list[tuple[str, int]] = []
        self.unloads: list[tuple[str, int]] = []
        self.reload(dict.fromkeys(NAMES, (("latest", 1), {})))

    @rule(models=MODELS)
    def reload(self, models):
        configs = []
        for name, ((policy, argument), labels) in models.items():
            fields = {"num_versions": argument} if policy == "latest" else {}
            fields = {"versions": sorted(argument)} if policy == "specific" else fields
            configs.append(model(name, f"/{name}", labels=labels, model_version_policy={policy: fields}))
        accepted = self.reference.reload(
            {name: policy for name, (policy, _) in models.items()},
            {name: labels for name, (_, labels) in models.items()},
        )
        if not accepted:
            with pytest.raises(StatusError, match="which is not currently available for inference"):
                self.labels.replace(configs)
            return
        self.labels.replace(configs)
        self.source.configure([watched(config) for config in configs])

    @rule(name=st.sampled_from(NAMES), version=NUMBERS, there=st.booleans())
    def change_a_directory(self, name, version, there):
        versions = self.reference.disk[name]
        if versions is not None:
            (versions.add if there else versions.discard)(version)

    @rule(name=st.sampled_from(NAMES), there=st.sampled_from([True, True, False]))
    def change_a_base_path(self, name, there):
        if (self.reference.disk[name] is not None) != there:
            self.reference.disk[name] = set() if there else None

    @rule(name=st.sampled_from(NAMES), version=NUMBERS, broken=st.booleans())
    def replace_files(self, name, version, broken):
        (self.reference.bad.add if broken else self.reference.bad.discard)((name, version))

    @rule()
    def poll(self):
        self.source.poll()
        self.reference.poll()

    @rule()
    def tick(self):
        before = self._phases("loading"), self._phases("unloading")
        self.world.manager.tick()
        self.reference.tick()
        self.loads += self._phases("loading") - before[0]
        self.unloads += self._phases("unloading") - before[1]

    @rule(ticks=st.integers(1, 4))
    def poll_and_tick(self, ticks=1):
        self.poll()
        for _ in range(ticks):
            self.tick()

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def run_a_load(self, data):
        at = data.draw(st.integers(0, len(self.loads) - 1))
        which = self.loads[at]
        self.reference.begin_load(*which)

        def between_two_attempts():
            assert not self.reference.try_load(*which)
            event = data.draw(st.sampled_from(["nothing", "repair", "reload without", "poll and tick"]))
            if event == "repair":
                self.replace_files(*which, broken=False)
            elif event == "reload without":
                self.reload({name: (("latest", 1), {}) for name in NAMES if name != which[0]})
                self.tick()
            elif event == "poll and tick":
                self.poll_and_tick()
            self.everything_is_as_in_the_reference()

        self.world.clock.during_sleep = between_two_attempts
        self.world.loads.run(at)
        del self.loads[at]
        assert self.reference.try_load(*which)

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def run_every_load(self, data):
        while self.loads:
            self.run_a_load(data)

    @precondition(lambda self: self.unloads)
    @rule(data=st.data())
    def run_an_unload(self, data):
        at = data.draw(st.integers(0, len(self.unloads) - 1))
        self.world.unloads.run(at)
        self.reference.unload(*self.unloads.pop(at))

    @invariant()
    def everything_is_as_in_the_reference(self):
        events = [(e.id.name, e.id.version, e.state.name, e.code.name) for e in self.world.events]
        assert events == self.reference.events
        for name in NAMES:
            rows = {row.version: (row.phase.value, row.aspired) for row in self.world.manager.snapshots(name)}
            managed = self.reference.managed.get(name, {})
            phases = {"gone": "disabled", "failed": "error"}
            assert rows == {n: (phases.get(v.phase, v.phase), v.aspired) for n, v in managed.items()}
            assert {v: state.name for v, state in self.world.states(name).items()} == {
                v: self.reference.state(name, v) for n, v, *_ in self.reference.events if n == name
            }
            assert self.world.answers(name) == self.reference.answers(name)
            for label in LABELS:
                self._compare_label(name, label)

    def _compare_label(self, name, label):
        expected = self.reference.labels.get(name, {}).get(label)
        try:
            found = self.labels.resolve(name, label)
        except StatusError:
            found = None
        assert found == expected
        if found is not None:
            answered = self.world.answers(name, found)
            assert answered == (found if (name, found) in self.reference.serving else None)

    def _phases(self, phase):
        return {(n, k) for n, vs in self.reference.managed.items() for k, v in vs.items() if v.phase == phase}

    def teardown(self):
        """However it went: new numbers that are good come to serve, and they alone."""
        for name in NAMES:
            self.reference.disk[name] = {9}
        self.reload(dict.fromkeys(NAMES, (("latest", 1), {})))
        self.world.clock.during_sleep = lambda: None
        self.source.poll()
        self.world.settle(80)
        for name in NAMES:
            assert [v for v, state in self.world.states(name).items() if state.name == "AVAILABLE"] == [9]


TestVersionHistories = VersionHistories.TestCase
TestVersionHistories.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
