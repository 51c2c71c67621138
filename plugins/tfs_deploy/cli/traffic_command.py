"""The command `traffic`: requests at a fixed rate while something else is deployed, and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import exit_codes, options
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    import asyncio

    from tfs_deploy.serving.rpc_calls import Address
    from tfs_deploy.store.protocol import Store
    from tfs_deploy.traffic.driver import TrafficPlan
    from tfs_deploy.traffic.report import TrafficReport


@command(group_options=True)
def traffic(
    call: Invocation,
    model: options.Model,
    rate: Annotated[float, typer.Option("--rate", metavar="N", help="Requests per second, over all replicas.")] = 10.0,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="S", help="How long; without it until Ctrl-C.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="LABEL", help="Ask this label; `stable` if not given.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", metavar="VERSION", help="Ask this version in place of a label.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="FILE",
            help="Send the requests of a TFRecord of PredictionLog; without it those in the version, or zeros.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Time limit of a request, seconds.")] = 5.0,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", help="Most requests under way at once.")
    ] = 100,
) -> None:
    """Send requests to every replica at a fixed rate; report failures and latencies by phase and by version.

    A line on stdin begins a phase of that name; a change of the version that answers begins one, too.

    Ends with 1 if a request failed, with 3 if none was answered.
    """
    import asyncio

    from tfs_deploy.cli.traffic_view import show_traffic, traffic_data
    from tfs_deploy.names import check_model_name
    from tfs_deploy.traffic.driver import TrafficPlan

    plan = TrafficPlan(
        _address(call, check_model_name(model), label, version),
        call.settings.replicas(),
        rate=rate,
        timeout=timeout,
        concurrency=concurrency,
        seconds=seconds,
        tls=call.settings.tls,
    )
    store = None if call.settings.store is None else call.store()
    report, source = asyncio.run(_run(call, plan, requests, store))
    call.answer(traffic_data(plan, report, source), lambda console: show_traffic(console, plan, report, source))
    call.exit_code = _exit_code(report)


def _address(call: Invocation, model: str, label: str | None, version: int | None) -> Address:
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.names import check_label, check_version
    from tfs_deploy.serving.group import Mode
    from tfs_deploy.serving.rpc_calls import Address

    if label is not None and version is not None:
        raise InvalidInput("--label and --version were both given.", "Give one.")
    if version is not None:
        return Address(model, version=check_version(version))
    if label is None and call.settings.servers.mode is Mode.LATEST:
        return Address(model)
    return Address(model, label=check_label(label or "stable"))


async def _run(
    call: Invocation, plan: TrafficPlan, file: Path | None, store: Store | None
) -> tuple[TrafficReport, str]:
    """Run the plan until its end or a signal; return the report and where the requests came from."""
    import asyncio

    from tfs_deploy.cli.stdin_lines import watch_stdin
    from tfs_deploy.cli.traffic_view import live_view
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.traffic.driver import TrafficDriver
    from tfs_deploy.traffic.requests import choose_requests

    stop = asyncio.Event()
    async with TrafficDriver(plan, SystemClock()) as driver:
        metadata = await driver.connect()
        request_set = choose_requests(next(iter(metadata.values())), file=file, store=store)
        _stop_on_signals(stop)
        watch_stdin(driver.recorder.mark)
        async with live_view(driver, silent=call.output.as_json):
            report = await driver.run(request_set.requests, stop)
    return report, request_set.source


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first SIGINT or SIGTERM end the traffic in good order; a second one ends the process."""
    import asyncio
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


def _exit_code(report: TrafficReport) -> int:
    if report.total.latency is None:
        return exit_codes.COULD_NOT_TELL
    return exit_codes.REFUSED if report.total.failed or report.ended_early else exit_codes.DONE
