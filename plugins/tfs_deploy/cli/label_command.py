"""The command `label`: set or remove a label besides `stable` and `previous`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.invocation import Invocation, command, version_of
from tfs_deploy.errors import InvalidInput

if TYPE_CHECKING:
    from tfs_deploy.deployment.records import DeploymentRecord


@command(group_options=True)
def label(
    call: Invocation,
    model: options.Model,
    name: Annotated[str, typer.Argument(metavar="LABEL", help="Name of the label, for example canary.")],
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Version number, or another label of the model.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label; its version stays loaded.")] = False,
    reason: options.Reason = "",
) -> None:
    """Move a label to a version that passed its gates, or remove it; `stable` and `previous` stay where they are."""
    from tfs_deploy.deployment.modes import steps_of

    if remove is not (version is None):
        raise InvalidInput(
            "Both a version and --remove are given." if remove else "Neither a version nor --remove is given.",
            "Give VERSION to set the label, or --remove to remove it.",
        )
    with call.session() as session, call.show_progress() as progress:
        if version is None:
            progress.begin(f"remove label {name} of {model}")
            _say_removed(call, model, name, steps_of(session).remove_label(session, model, name, reason=reason))
            return
        number = version_of(session, model, version)
        progress.begin(f"move label {name} of {model} to version {number}")
        done = steps_of(session).set_label(session, model, name, number, reason=reason)
    say_labelled(call, done)


def say_labelled(call: Invocation, done: DeploymentRecord) -> None:
    """Answer with the label that was set; a record without a number says that it was set already."""
    if done.sequence:
        before = f" (before: {done.previous})" if done.previous else ""
        sentence = f"Label {done.label} of {done.model} names version {done.version}{before}."
    else:
        sentence = f"Label {done.label} of {done.model} names version {done.version} already."
    call.say(_data(done.model, done.label, done.version, done), sentence)


def _say_removed(call: Invocation, model: str, name: str, done: DeploymentRecord | None) -> None:
    if done is None:
        sentence = f"{model} has no label {name}; nothing was removed."
    else:
        sentence = f"Label {name} of {model} is removed; version {done.previous} stays loaded."
    call.say(_data(model, name, None, done), sentence)


def _data(model: str, name: str, version: int | None, done: DeploymentRecord | None) -> dict[str, object]:
    previous = None if done is None else done.previous
    return {
        "model": model,
        "label": name,
        "version": version,
        "previous": previous,
        "changed": bool(done and done.sequence),
    }
