"""One deployer at a time: whatever the clocks of two machines say, and however long one of them was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from deployment_names import MODEL
from fakes import FakeClock
from tfs_deploy.deployment.lease import LEASE_SECONDS, group_lease, hold
from tfs_deploy.deployment.records import Action, history, version_at
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.promote import promote
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.errors import Contention, Unreachable

KEY = "groups/default/lease.json"


@dataclass
class OffClock:
    """The clock of a machine that is wrong by `off`."""

    clock: FakeClock
    off: timedelta

    def now(self) -> datetime:
        return self.clock.now() + self.off

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)


class Documents:
    """State documents with something that happens before a read or a write."""

    def __init__(self, session: GroupSession, before: Callable[[str, str], None]) -> None:
        self._documents = session.store.documents
        self._before = before

    def __getattr__(self, name: str) -> Any:
        def call(key: str, *arguments: Any, **options: Any) -> Any:
            self._before(name, key)
            return getattr(self._documents, name)(key, *arguments, **options)

        return call


def with_documents(session: GroupSession, before: Callable[[str, str], None]) -> GroupSession:
    class Store:
        documents = Documents(session, before)

        def __getattr__(self, name: str) -> Any:
            return getattr(session.store, name)

    return replace(session, store=Store())


@pytest.mark.parametrize("off", [timedelta(seconds=30), timedelta(seconds=-30)])
def test_a_clock_that_is_wrong_takes_no_lease_that_is_kept_alive(bench, off):
    holder = group_lease(bench.session, "a long job")
    holder.acquire()

    def save(name: str, key: str) -> None:
        if (name, key) == ("read", KEY):
            holder.renew()

    wrong = with_documents(replace(bench.session, clock=OffClock(bench.clock, off)), save)
    with pytest.raises(Contention, match="is held by a test for a long job"):
        group_lease(wrong, "another").acquire()
    holder.check()


@pytest.mark.parametrize("off", [timedelta(0), timedelta(hours=1), timedelta(hours=-1)])
def test_the_lease_of_a_deployer_that_died_is_over_in_time_whatever_its_clock_said(bench, off):
    group_lease(replace(bench.session, clock=OffClock(bench.clock, off)), "a job that died").acquire()
    started = bench.clock.monotonic()
    group_lease(bench.session, "another").acquire()
    assert bench.clock.monotonic() - started <= LEASE_SECONDS + 1


def test_the_lease_of_a_deployer_that_died_long_ago_is_free_at_once(bench):
    group_lease(bench.session, "a job that died").acquire()
    bench.clock.advance(3600)
    group_lease(bench.session, "another").acquire()
    assert bench.clock.slept == []


def test_a_lease_that_was_taken_is_lost_as_soon_as_its_holder_hears_of_it(bench):
    with hold(group_lease(bench.session, "a job")) as lease:
        body = b'{"holder": "x", "actor": "somebody", "purpose": "else", "until": "2026-01-01T01:00:00+00:00"}'
        bench.store.documents.write(KEY, body, expected=bench.store.documents.read(KEY).tag)
        with pytest.raises(Contention):
            lease.renew()
        with pytest.raises(Contention, match="ran out"):
            lease.check()


def test_a_lease_whose_renewal_was_written_and_not_answered_is_kept(bench):
    lease = group_lease(bench.session, "a job")
    lease.acquire()
    held = bench.store.documents.read(KEY)
    bench.store.documents.write(KEY, held.body, expected=held.tag)
    lease.renew()
    lease.check()


def test_a_clock_that_was_set_back_does_not_make_a_lease_longer(bench):
    back = OffClock(bench.clock, timedelta(0))
    lease = group_lease(replace(bench.session, clock=back), "a job")
    lease.acquire()
    bench.clock.advance(LEASE_SECONDS + 1)
    back.off = timedelta(hours=-1)
    with pytest.raises(Contention, match="ran out"):
        lease.check()


def test_a_deployer_that_was_stopped_before_its_record_records_nothing_that_is_not_so(bench):
    """It had moved every replica; while it stood still another one finished its move and rolled back."""
    old = bench.promoted("good one")
    new = bench.validated("good two")
    stopped = []

    def stop(name: str, key: str) -> None:
        if (name, bench.stable()) == ("write", [new, new]) and "/leases/" in key and not stopped:
            stopped.append(key)
            bench.clock.advance(600)
            rollback(bench.session, MODEL, to=old)

    with pytest.raises(Contention):
        promote(with_documents(bench.session, stop), MODEL, new)
    assert stopped, "it was never stopped"
    assert bench.answers() == [old, old]
    assert version_at(bench.store.documents, "default", MODEL, bench.clock.now()).version == old
    actions = [entry.action for entry in history(bench.store.documents, "default", MODEL)]
    assert actions.count(Action.PROMOTED) == 2, "its own one was recorded by the other deployer, and once"


def test_a_store_that_is_away_for_one_renewal_loses_no_lease(bench):
    away = []

    def fail(name: str, key: str) -> None:
        if away:
            raise Unreachable("The store is away.", "Wait.")

    lease = group_lease(with_documents(bench.session, fail), "a job")
    lease.acquire()
    away.append("for a while")
    with pytest.raises(Unreachable):
        lease.renew()
    lease.check()
    away.clear()
    lease.renew()
