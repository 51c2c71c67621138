"""A bake on a fake group and the metrics of a gateway: how it ends, what it changes, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deployment.conftest import Workbench
from deployment.fake_gateway import Gateway
from deployment_names import MODEL
from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.bake_decision import BakeLimits
from tfs_deploy.deployment.steps.bake import Bake, BakeReport, begin, finish, watch
from tfs_deploy.deployment.steps.label import remove_label, set_label
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.errors import InvalidInput, NotFound, Refused, Unreachable
from tfs_deploy.jsonable import from_builtins, to_builtins
from tfs_deploy.validation.report import Verdict

ADDRESS = "http://gateway:8080/metrics"


class BakeBench:
    """A group with version 1 live and version 2 as canary, and a gateway whose requests come while a bake waits."""

    def __init__(self, bench: Workbench) -> None:
        bench.promoted("good one")
        bench.validated("good two")
        set_label(bench.session, MODEL, "canary", 2)
        self.bench = bench
        self.session = bench.session
        self.gateway = Gateway(MODEL)
        self.away = False

    def fetch(self, address: str) -> str:
        if self.away:
            raise Unreachable("The gateway did not answer.", "Wait.")
        return self.gateway.text()

    def begin(self, seconds: float = 60.0, label: str = "canary", addresses: tuple[str, ...] = (ADDRESS,)) -> Bake:
        return begin(
            self.session,
            MODEL,
            label,
            addresses=addresses,
            seconds=seconds,
            limits=BakeLimits(),
            fetch=self.fetch,
        )

    def run(self, traffic: Callable[[], object]) -> BakeReport:
        """Bake for a minute; `traffic` comes between two polls."""
        bake = self.begin()
        self.bench.clock._on_sleep = traffic
        try:
            decision = watch(self.session, bake, self.fetch)
        finally:
            self.bench.clock._on_sleep = None
        return finish(self.session, from_builtins(Bake, to_builtins(bake)), decision)

    def labels(self) -> dict[str, int]:
        return dict(desired_state.read(self.bench.store.documents, self.bench.group).labels(MODEL))


@pytest.fixture
def baking(bench: Workbench) -> BakeBench:
    return BakeBench(bench)


def test_a_sound_canary_passes_and_keeps_its_label(baking: BakeBench) -> None:
    report = baking.run(lambda: baking.gateway.serve(stable=900, canary=50))
    assert (report.verdict, report.label_removed) == (Verdict.PASS, False)
    assert (report.canary, report.stable) == (2, 1)
    assert report.measured["canary_requests"] == 200.0
    assert sum(baking.bench.clock.slept[-4:]) == 60.0
    assert baking.labels() == {"stable": 1, "canary": 2}
    promote(baking.session, MODEL, 2)


def test_a_canary_that_fails_loses_its_label_before_the_time_is_up(baking: BakeBench) -> None:
    begun = baking.bench.clock.monotonic()
    report = baking.run(lambda: baking.gateway.serve(stable=900, canary=60, broken=60))
    assert (report.verdict, report.label_removed) == (Verdict.FAIL, True)
    assert report.reason.startswith("The canary failed 60 of 120 requests (50.00%)")
    assert baking.bench.clock.monotonic() - begun == pytest.approx(15.0)
    assert baking.labels() == {"stable": 1}
    assert baking.bench.stable() == [1, 1]
    last = records.history(baking.bench.store.documents, "default", MODEL)[-1]
    assert (last.label, last.version, last.previous, last.reason) == ("canary", 0, 2, report.reason)


def test_too_little_traffic_changes_nothing(baking: BakeBench) -> None:
    report = baking.run(lambda: baking.gateway.serve(stable=900, canary=5))
    assert (report.verdict, report.label_removed) == (Verdict.INCONCLUSIVE, False)
    assert report.reason == "The canary had 20 requests, and 100 are needed."
    assert baking.labels() == {"stable": 1, "canary": 2}


def test_a_gateway_that_is_away_for_a_while_does_not_matter(baking: BakeBench) -> None:
    polls = iter([True, True, False, False])

    def traffic() -> None:
        baking.gateway.serve(stable=900, canary=50)
        baking.away = next(polls)

    assert baking.run(traffic).verdict is Verdict.PASS


def test_a_gateway_that_is_away_at_the_end_leaves_it_undecided(baking: BakeBench) -> None:
    def traffic() -> None:
        baking.gateway.serve(stable=900, canary=50)
        baking.away = True

    report = baking.run(traffic)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason == f"Not measured: {ADDRESS} (The gateway did not answer)."


def test_a_label_that_moved_meanwhile_is_left_alone(baking: BakeBench) -> None:
    def traffic() -> None:
        baking.gateway.serve(stable=900, canary=60, broken=60)
        set_label(baking.session, MODEL, "canary", 1)

    report = baking.run(traffic)
    assert (report.verdict, report.label_removed) == (Verdict.INCONCLUSIVE, False)
    assert "Label canary" in report.reason
    assert baking.labels() == {"stable": 1, "canary": 1}


def test_what_cannot_be_compared_is_refused_before_anything_changes(baking: BakeBench) -> None:
    with pytest.raises(InvalidInput, match="no source of metrics"):
        baking.begin(addresses=())
    with pytest.raises(InvalidInput, match="reserved"):
        baking.begin(label="stable")
    with pytest.raises(NotFound, match="has no label 'blue'"):
        baking.begin(label="blue")
    baking.away = True
    with pytest.raises(Unreachable, match="The gateway did not answer"):
        baking.begin()
    promote(baking.session, MODEL, 2)
    with pytest.raises(Refused, match="version 2 is stable too"):
        baking.begin()
    remove_label(baking.session, MODEL, "canary")
    assert baking.labels() == {"stable": 2, "previous": 1}
