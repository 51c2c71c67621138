"""The command `bake`: compare a canary with the stable version for a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.exit_codes import VERDICTS
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from tfs_deploy.deployment.steps.bake import BakeReport

# Not a flag: a process list shows those.
_KEY_VARIABLE = "TFS_DEPLOY_GATEWAY_KEY"
_LIMITS = "Limits"


@command(group_options=True)
def bake(
    call: Invocation,
    model: options.Model,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="URL",
            help=f"Metrics of a gateway, http://HOST:PORT/metrics; once per gateway (API key: {_KEY_VARIABLE}).",
        ),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="Label of the canary.")] = "canary",
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="N", min=0.0, help="How long the canary is watched.")
    ] = 600.0,
    min_requests: Annotated[
        int,
        typer.Option("--min-requests", metavar="N", help="Of each version, for a verdict.", rich_help_panel=_LIMITS),
    ] = 100,
    max_error_increase: Annotated[
        float,
        typer.Option(
            "--max-error-increase",
            metavar="SHARE",
            help="How much more of the canary's requests may fail: 0.01 is 1 %.",
            rich_help_panel=_LIMITS,
        ),
    ] = 0.01,
    max_latency_ratio: Annotated[
        float,
        typer.Option(
            "--max-latency-ratio",
            metavar="X",
            help="How many times as long the canary's slowest 5 % may take.",
            rich_help_panel=_LIMITS,
        ),
    ] = 1.5,
) -> None:
    """Compare a canary with the stable version under traffic; one that fails loses its label."""
    from tfs_deploy.deployment.bake_decision import BakeLimits
    from tfs_deploy.deployment.gateway_metrics import check_addresses, http_fetch
    from tfs_deploy.deployment.steps import bake as step

    limits = BakeLimits(
        min_requests=min_requests, max_error_increase=max_error_increase, max_latency_ratio=max_latency_ratio
    )
    addresses = check_addresses(metrics or [])
    fetch = http_fetch(os.environ.get(_KEY_VARIABLE, ""))
    with call.session() as session, call.show_progress() as progress:
        begun = step.begin(session, model, label, addresses=addresses, seconds=seconds, limits=limits, fetch=fetch)
        progress.begin(f"compare version {begun.canary} of {model} with version {begun.stable} for {seconds:g} s")
        report = step.finish(session, begun, step.watch(session, begun, fetch))
    call.say(report, _sentence(report))
    call.exit_code = VERDICTS[report.verdict.value]


def _sentence(report: BakeReport) -> str:
    outcome = {"pass": "passed", "fail": "failed", "inconclusive": "could not be decided on"}[report.verdict.value]
    removed = f" Label {report.label} was removed." if report.label_removed else ""
    return f"Version {report.canary} of {report.model} {outcome}: {report.reason}{removed}"
