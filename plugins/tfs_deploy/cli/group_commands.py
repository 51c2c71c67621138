"""Commands on what a group serves as a whole: bring its replicas to it, and take a model out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.invocation import Invocation, command, version_of
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from tfs_deploy.deployment.steps.undeploy import Undeployment


@command(group_options=True)
def reconcile(call: Invocation) -> None:
    """Bring replicas that were away, restarted or changed by hand to what the group should serve."""
    from tfs_deploy.deployment.modes import steps_of

    with call.session(reads_only=True) as session, call.show_progress() as progress:
        progress.begin(f"reconcile group {session.group.name}")
        done = steps_of(session).reconcile(session)
    if not done.replicas:
        call.say(done, f"Nothing to do: every replica of group {done.group} serves what it should.")
        return
    lines = [f"Brought {plural(len(done.replicas), 'replica')} of group {done.group} to the desired state:"]
    lines += [f"  {target}: {difference}" for target, difference in sorted(done.replicas.items())]
    call.say(done, "\n".join(lines))


@command(group_options=True)
def undeploy(
    call: Invocation,
    model: options.Model,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Only this version; the whole model if not given.")
    ] = None,
    reason: options.Reason = "",
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take the versions out of the store, too; their numbers are burned.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop serving a model, or one version of it; requests for it fail from then on."""
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name

    check_model_name(model)
    with call.session() as session, call.show_progress() as progress:
        number = None if version is None else version_of(session, model, version)
        what = model if number is None else f"version {number} of {model}"
        if not yes:
            call.confirm(f"Group {session.group.name} will stop serving {what}. Go on?", otherwise="--yes")
        progress.begin(f"undeploy {what}")
        done = steps_of(session).undeploy(session, model, number, reason=reason, withdraw=withdraw)
    call.say(done, _sentence(done))


def _sentence(done: Undeployment) -> str:
    versions = ", ".join(map(str, done.versions))
    stay = "withdrawn from" if done.withdrawn else "still in"
    return f"{done.model}: {plural(len(done.versions), 'version')} ({versions}) unloaded, {stay} the store."
