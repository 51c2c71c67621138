"""The command that makes request files out of captured traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfs_deploy.cli.invocation import Invocation, command


@command(somewhere=False)
def make(
    call: Invocation,
    captures: Annotated[
        list[Path], typer.Argument(metavar="CAPTURES...", help="Capture files of a gateway, or directories of them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to write the request files to.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Needed if there are several.")] = "",
    most: Annotated[int, typer.Option("--max", metavar="N", min=1, help="How many golden requests at most.")] = 32,
) -> None:
    """Make golden and warm-up requests out of captured traffic: those of the newest version, none twice."""
    from tfs_deploy.gateway.capture.golden import make_golden

    made = make_golden(captures, out, model=model, most=most)
    left_out = f"{made.repeated} repeated, {made.other} of other versions or models"
    if made.without_answer:
        left_out += f", {made.without_answer} with their answers redacted"
    golden = f"{made.golden} golden requests in {made.golden_file}" if made.golden else "no golden request"
    call.say(
        made,
        f"Of {made.read} captured requests, for version {made.version} of {made.model}: {golden}; "
        f"{made.warmup} warm-up requests in {made.warmup_file}. Left out: {left_out}.",
    )
