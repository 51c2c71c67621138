"""Fixed-rate traffic on `stable` while a test deploys: the driver of `tfs-deploy traffic` on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfs_deploy.clock import SystemClock
from tfs_deploy.traffic.driver import TrafficDriver, TrafficPlan
from tfs_deploy.traffic.report import TrafficReport
from tfs_deploy.traffic.requests import TrafficRequest


@dataclass
class BackgroundTraffic:
    """`report` is there after the block; an error of the driver is raised at its end."""

    report: TrafficReport | None = None
    _errors: list[BaseException] = field(default_factory=list)

    def run(self, plan: TrafficPlan, request: TrafficRequest, ready: threading.Event, stop: threading.Event) -> None:
        try:
            self.report = asyncio.run(_drive(plan, request, ready, stop))
        except BaseException as error:
            self._errors.append(error)
        finally:
            ready.set()

    def check(self) -> None:
        for error in self._errors:
            raise error


@contextmanager
def traffic_during(plan: TrafficPlan, request: TrafficRequest) -> Iterator[BackgroundTraffic]:
    """Send `request` for the block, whatever it does; the first one is answered before it begins."""
    traffic, ready, stop = BackgroundTraffic(), threading.Event(), threading.Event()
    thread = threading.Thread(target=traffic.run, args=(plan, request, ready, stop))
    thread.start()
    try:
        ready.wait()
        traffic.check()
        yield traffic
    finally:
        stop.set()
        thread.join()
    traffic.check()


async def _drive(
    plan: TrafficPlan, request: TrafficRequest, ready: threading.Event, stop: threading.Event
) -> TrafficReport:
    async with TrafficDriver(plan, SystemClock()) as driver:
        await driver.connect()
        ended = asyncio.Event()
        sending = asyncio.ensure_future(driver.run([request], ended))
        while not sending.done():
            await asyncio.sleep(0.05)
            if driver.recorder.phase.latencies:
                ready.set()
            if stop.is_set():
                ended.set()
        return await sending
