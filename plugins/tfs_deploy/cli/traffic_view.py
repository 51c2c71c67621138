"""What `tfs-deploy traffic` shows: the current phase while it runs, and a table of all phases at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tfs_deploy.cli.tables import Column, print_table
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.names import plural
from tfs_deploy.traffic.driver import TrafficDriver, TrafficPlan
from tfs_deploy.traffic.report import Latency, PhaseTraffic, TrafficRecorder, TrafficReport

_LIVE_SECONDS = 0.25
# A log of a long run shows that it goes on, and does not consist of it.
_LINE_SECONDS = 10.0
# A delay of the sender below this does not change what the percentiles say.
_NOTEWORTHY_DELAY_MS = 50.0
# A rate below this share of the wanted one is said.
_RATE_SHARE = 0.98

_COLUMNS = [
    Column("from", right=True),
    Column("phase"),
    Column("version", right=True),
    Column("requests", right=True),
    Column("failed", right=True),
    Column("rate", right=True),
    Column("p50", right=True),
    Column("p90", right=True),
    Column("p99", right=True),
    Column("max", right=True),
]


@asynccontextmanager
async def live_view(driver: TrafficDriver, *, silent: bool) -> AsyncIterator[None]:
    """Show the traffic on stderr during the block: one changing line on a terminal, else a line per phase or 10 s."""
    if silent:
        yield
        return
    console = Console(stderr=True, highlight=False)
    follow = _follow_on_terminal if console.is_terminal else _follow_in_log
    task = asyncio.create_task(follow(console, driver.recorder))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _follow_on_terminal(console: Console, recorder: TrafficRecorder) -> None:
    shown = 0
    console.print("A name and Enter begins a phase, Ctrl-C ends.", style="dim")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            *ended, current = recorder.phases_since(shown)
            for phase in ended:
                live.console.print(_line(phase))
            shown += len(ended)
            line = _line(current)
            line.truncate(console.width, overflow="ellipsis")
            live.update(line, refresh=True)
            await asyncio.sleep(_LIVE_SECONDS)


async def _follow_in_log(console: Console, recorder: TrafficRecorder) -> None:
    shown = 0
    while True:
        for _ in range(round(_LINE_SECONDS / _LIVE_SECONDS)):
            await asyncio.sleep(_LIVE_SECONDS)
            *ended, current = recorder.phases_since(shown)
            for phase in ended:
                console.print(_line(phase), soft_wrap=True)
            shown += len(ended)
        console.print(_line(current), soft_wrap=True)


def _line(phase: PhaseTraffic) -> Text:
    """Return one phase as a line of a log."""
    text = Text.assemble(
        (phase.name, "bold"),
        f"  {_seconds(phase.seconds)}  {_versions_text(phase)}  {_requests_text(phase)}  ",
        (f"{phase.failed} failed", "red" if phase.failed else ""),
    )
    if phase.latency is not None:
        text.append(f"  p50 {_milliseconds(phase.latency.p50_ms)}  p99 {_milliseconds(phase.latency.p99_ms)}")
    return text


def traffic_data(plan: TrafficPlan, report: TrafficReport, source: str) -> dict[str, Any]:
    """Return the answer for --json."""
    data: dict[str, Any] = to_builtins(report)
    asked = {
        "model": plan.address.model,
        "version": plan.address.version,
        "label": plan.address.label,
        "replicas": list(plan.targets),
        "asked_rate": plan.rate,
        "inputs": source,
    }
    return {**asked, **data}


def show_traffic(console: Console, plan: TrafficPlan, report: TrafficReport, source: str) -> None:
    """Print one row per phase and version, failures with the first errors, and one sentence."""
    rows = [row for phase in report.phases for row in _rows(phase)]
    if len(report.phases) > 1:
        rows += [[Text.assemble(cell, style="bold") for cell in row] for row in _rows(report.total, by_version=False)]
    print_table(console, _COLUMNS, rows)
    console.print()
    for error in report.errors:
        console.print(Text(error, style="red"), soft_wrap=True)
    for line in _sentences(plan, report, source):
        console.print(line, soft_wrap=True)


def _rows(phase: PhaseTraffic, *, by_version: bool = True) -> list[list[Text]]:
    """Return a row per version that answered, and one for what no version answered."""
    if not by_version or len(phase.versions) <= 1:
        return [_row(phase, _numbers(phase), phase.requests, phase.failed, phase.latency)]
    rows = [_row(phase, str(each.version), each.answered, 0, each.latency) for each in phase.versions]
    if phase.failed:
        rows.append(_row(phase, "none", phase.failed, phase.failed, None))
    return rows


def _row(phase: PhaseTraffic, version: str, requests: int, failed: int, latency: Latency | None) -> list[Text]:
    rate = requests / phase.seconds if phase.seconds else 0.0
    percentiles = (
        ["-"] * 4
        if latency is None
        else map(_milliseconds, (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms))
    )
    cells = [_seconds(phase.start_seconds), phase.name, version, f"{requests:,}", str(failed), f"{rate:,.1f}/s"]
    row = [Text(cell) for cell in (*cells, *percentiles)]
    if failed:
        row[4].stylize("red")
    return row


def _sentences(plan: TrafficPlan, report: TrafficReport, source: str) -> list[Text]:
    total, replicas = report.total, plural(len(plan.targets), "replica")
    sent = f"{_requests_text(total)} to {plan.address} on {replicas} in {_seconds(total.seconds)}"
    if not total.failed:
        verdict = Text(f"{sent}: none failed.", style="green")
    else:
        codes = ", ".join(f"{count} {code}" for code, count in total.failures.items())
        verdict = Text(f"{sent}: {total.failed} failed ({codes}).", style="bold red")
    lines = [verdict, Text(f"Sent: {source}. Answered by {_versions_text(total)}.")]
    if report.ended_early:
        lines.append(Text(f"The traffic was ended early. {report.ended_early}", style="red"))
    elif total.rate < _RATE_SHARE * plan.rate and total.requests > plan.rate:
        lines.append(Text(f"The rate was {total.rate:g} per second, not {plan.rate:g}.", style="yellow"))
    if report.longest_start_delay_ms > _NOTEWORTHY_DELAY_MS:
        delay = _milliseconds(report.longest_start_delay_ms)
        lines.append(Text(f"This machine sent one request {delay} late, which its latency contains.", style="yellow"))
    return lines


def _requests_text(phase: PhaseTraffic) -> str:
    return f"{phase.requests:,} request{'' if phase.requests == 1 else 's'}"


def _numbers(phase: PhaseTraffic) -> str:
    return ", ".join(str(each.version) for each in phase.versions) or "none"


def _versions_text(phase: PhaseTraffic) -> str:
    if not phase.versions:
        return "no version"
    return f"version{'' if len(phase.versions) == 1 else 's'} {_numbers(phase)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _milliseconds(milliseconds: float) -> str:
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"
