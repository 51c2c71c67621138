"""A phase ends at a mark and at a change of the serving versions; every request is in the phase in which it was due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeClock
from tfs_deploy.traffic.report import MAX_PHASES, MAX_QUOTED_ERRORS, TrafficRecorder


def started(**versions: int) -> tuple[FakeClock, TrafficRecorder]:
    clock = FakeClock()
    recorder = TrafficRecorder(clock)
    recorder.start(versions)
    return clock, recorder


def names(recorder: TrafficRecorder) -> list[tuple[str, list[int]]]:
    return [(phase.name, [each.version for each in phase.versions]) for phase in recorder.report().phases]


def test_a_mark_begins_a_phase_and_a_request_stays_in_its_own():
    clock, recorder = started(a=1)
    before = recorder.phase
    clock.advance(2.0)
    recorder.mark("deploy")
    recorder.answered(before, "a", 0, 1, 0.3)
    recorder.answered(recorder.phase, "a", 1, 1, 0.1)
    recorder.failed(recorder.phase, "UNAVAILABLE", "UNAVAILABLE: gone")
    clock.advance(4.0)
    first, second = recorder.report().phases
    assert (first.name, first.start_seconds, first.seconds, first.requests, first.failed) == ("start", 0.0, 2.0, 1, 0)
    assert (second.name, second.start_seconds, second.seconds, second.requests) == ("deploy", 2.0, 4.0, 2)
    assert (second.failed, second.failures, second.rate) == (1, {"UNAVAILABLE": 1}, 0.5)
    assert first.latency.max_ms == 300.0
    assert second.latency.p50_ms == 100.0


def test_a_mark_without_a_name_gets_one():
    _, recorder = started(a=1)
    recorder.mark("")
    recorder.mark("")
    assert [name for name, _ in names(recorder)] == ["start", "mark 1", "mark 2"]


def test_two_replicas_that_move_one_after_the_other_make_a_phase_of_both_versions():
    _, recorder = started(a=1, b=1)
    for number, (target, version) in enumerate([("a", 1), ("b", 1), ("a", 2), ("b", 1), ("a", 2), ("b", 2), ("a", 2)]):
        recorder.answered(recorder.phase, target, number, version, 0.01)
    assert names(recorder) == [("start", [1]), ("start", [1, 2]), ("start", [2])]


def test_a_late_answer_of_the_version_before_is_no_change():
    _, recorder = started(a=1)
    phase = recorder.phase
    recorder.answered(phase, "a", 1, 2, 0.01)
    recorder.answered(phase, "a", 0, 1, 0.9)
    assert names(recorder) == [("start", [1]), ("start", [2])]


def test_replicas_that_differ_from_the_start_are_one_phase():
    _, recorder = started(a=1, b=2)
    for number, (target, version) in enumerate([("a", 1), ("b", 2), ("a", 1), ("b", 2)]):
        recorder.answered(recorder.phase, target, number, version, 0.01)
    assert names(recorder) == [("start", [1, 2])]


def test_phases_and_quoted_errors_are_bounded():
    _, recorder = started(a=1)
    for number in range(3 * MAX_PHASES):
        recorder.answered(recorder.phase, "a", number, number % 2, 0.01)
        recorder.failed(recorder.phase, "INTERNAL", f"INTERNAL: {number}")
        recorder.mark("again")
    report = recorder.report()
    assert len(report.phases) <= 2 * MAX_PHASES
    assert report.total.requests == 6 * MAX_PHASES
    assert report.errors == tuple(f"INTERNAL: {number}" for number in range(MAX_QUOTED_ERRORS))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("mark"), st.just("")),
            st.tuples(st.sampled_from("abc"), st.integers(1, 3)),
            st.tuples(st.just("failed"), st.sampled_from(["UNAVAILABLE", "INTERNAL"])),
        )
    )
)
def test_every_request_is_counted_once(events):
    clock, recorder = started(a=1, b=1)
    answered = failed = 0
    for number, (kind, value) in enumerate(events):
        clock.advance(0.5)
        if kind == "mark":
            recorder.mark(value)
        elif kind == "failed":
            recorder.failed(recorder.phase, value, value)
            failed += 1
        else:
            recorder.answered(recorder.phase, kind, number, value, 0.01)
            answered += 1
    report = recorder.report()
    for total in (report.total, *report.phases):
        assert total.requests == total.failed + sum(version.answered for version in total.versions)
        assert total.failed == sum(total.failures.values())
    assert report.total.requests == sum(phase.requests for phase in report.phases) == answered + failed
    assert sum(phase.seconds for phase in report.phases) == report.total.seconds == 0.5 * len(events)
