"""What the command line does with containers: validate in images, and remove what dead runs left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from tfs_deploy.validation.config import Gates
    from tfs_deploy.validation.report import ValidationReport

# The model's name on a throw-away server, where it has none of its own yet.
_CANDIDATE = "candidate"


@command(somewhere=False)
def reap(
    call: Invocation,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and change nothing.")] = False,
) -> None:
    """Remove containers whose process has ended or whose time is over; the engine is that of DOCKER_HOST."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.containers.docker_engine import connect
    from tfs_deploy.containers.reaper import leftovers
    from tfs_deploy.containers.reaper import reap as run_reap

    engine = connect()
    try:
        found = (leftovers if dry_run else run_reap)(engine, clock=SystemClock())
    finally:
        engine.close()
    verb = "Would remove" if dry_run else "Removed"
    told = "; ".join(f"{one.name or one.id[:12]} ({one.why})" for one in found)
    data = [{"id": one.id, "name": one.name, "why": one.why, "removed": not dry_run} for one in found]
    call.say(data, f"{verb} {len(found)} container(s): {told}." if found else "No container is left over.")


def validate_in_images(
    call: Invocation,
    directory: Path,
    images: list[str],
    gates: Gates,
    *,
    copy: bool,
    version: int | None = None,
    model: str = _CANDIDATE,
) -> ValidationReport:
    """Validate `directory` in a throw-away container of each image, and return one report."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.containers.options import ServerOptions
    from tfs_deploy.containers.runner import Delivery, runners_for
    from tfs_deploy.deployment.offline_validation import UNPUBLISHED, validate_in_each

    clock = SystemClock()
    delivery = Delivery.COPY if copy else Delivery.MOUNT
    runners = runners_for(images, ServerOptions(), delivery=delivery, clock=clock)
    with call.working() as work:
        work.begin(f"validate {directory} in {', '.join(images)}")
        return validate_in_each(
            directory,
            model,
            gates,
            runners=runners,
            clock=clock,
            wait=call.settings.wait,
            version=UNPUBLISHED if version is None else version,
        )
