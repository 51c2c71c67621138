"""Commands that change what a serving group serves: one per step, and `deploy` for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli import options
from tfs_deploy.cli.invocation import Invocation, command, version_of
from tfs_deploy.cli.label_command import say_labelled
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from pathlib import Path

    from tfs_deploy.deployment.records import DeploymentRecord
    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.store.protocol import Published

_FIRST_VERSION = "First version of a new model. "


@command(group_options=True)
def deploy(
    call: Invocation,
    directory: options.Directory,
    model: options.ModelOption,
    gates: options.Gates = None,
    python: options.Python = None,
    new_model: options.NewModel = False,
) -> None:
    """Publish, load, validate and promote; a version that fails is rejected and `stable` stays where it is."""
    from tfs_deploy.cli.validate_command import embedded_runner
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name
    from tfs_deploy.validation.config import read_gates
    from tfs_deploy.validation.runner import worst_metrics

    check_model_name(model)
    policy = read_gates(gates)
    size = _publish_bytes(directory)
    with call.session() as session, call.show_progress() as progress:
        is_new = _ask_about_new_name(call, session, model, expected=new_model)
        done = steps_of(session).deploy(
            session,
            directory,
            model,
            policy,
            make_runner=lambda: embedded_runner(python),
            on_step=lambda step: progress.begin(step, total=size if step == "publish" else None),
            on_bytes=progress.update,
        )
    published = done.published
    data = {
        **_published_data(published),
        "verdict": done.report.verdict,
        "reason": done.report.reason(),
        "measured": worst_metrics(done.report),
        "stable": done.record.version,
        "previous": done.record.previous,
        "seconds": done.seconds,
    }
    version = f"Version {published.version.version} of {model} is live{_previous_text(done.record)}."
    seconds = ", ".join(f"{step} {duration:.1f} s" for step, duration in done.seconds.items())
    call.say(data, f"{_FIRST_VERSION if is_new else ''}{version} {done.report.reason()} Took: {seconds}.")


@command(group_options=True)
def publish(
    call: Invocation, directory: options.Directory, model: options.ModelOption, new_model: options.NewModel = False
) -> None:
    """Put a SavedModel into the store as the next version; the same bytes again give the version they have."""
    from tfs_deploy.cli.tables import readable_size
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name

    check_model_name(model)
    size = _publish_bytes(directory)
    with call.session() as session, call.show_progress() as progress:
        is_new = _ask_about_new_name(call, session, model, expected=new_model)
        progress.begin("publish", total=size)
        done = steps_of(session).publish(session, directory, model, progress=progress.update)
    version = done.version
    if done.created:
        uploaded = readable_size(done.uploaded_bytes)
        sentence = f"Published version {version.version} of {model}: {uploaded}, {version.fingerprint}."
    else:
        sentence = f"Version {version.version} of {model} holds these bytes already, nothing was written."
    call.say(_published_data(done), f"{_FIRST_VERSION if is_new else ''}{sentence}")


@command(group_options=True)
def load(
    call: Invocation,
    model: options.Model,
    version: options.Version,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every replica has it AVAILABLE.")] = True,
) -> None:
    """Load a version on every replica, beside what is live; no label moves."""
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.deployment.steps.load import wait_until_available

    with call.session() as session, call.show_progress() as progress:
        number = version_of(session, model, version)
        replicas = plural(len(session.group.replicas), "replica")
        progress.begin(f"load version {number} of {model} on {replicas}")
        steps_of(session).load(session, model, number)
        if wait:
            progress.begin(f"wait until version {number} of {model} is AVAILABLE")
            wait_until_available(session, model, number)
        targets = list(session.group.replicas)
    data = {"model": model, "version": number, "replicas": targets, "available": True if wait else None}
    state = "is AVAILABLE on" if wait else "was asked for on"
    call.say(data, f"Version {number} of {model} {state} {', '.join(targets)}.")


@command(group_options=True)
def promote(
    call: Invocation,
    model: options.Model,
    version: options.Version,
    label: Annotated[
        str | None, typer.Option("--label", metavar="NAME", help="Move this label, for example canary, not `stable`.")
    ] = None,
    quorum: Annotated[
        int | None, typer.Option("--quorum", metavar="N", help="So many replicas are enough; all if not given.")
    ] = None,
    reason: options.Reason = "",
) -> None:
    """Move `stable`, or another label, to a version that passed its gates, on all replicas or on none."""
    from tfs_deploy.deployment.desired_state import STABLE
    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.show_progress() as progress:
        number = version_of(session, model, version)
        progress.begin(f"promote version {number} of {model}")
        if label not in (None, STABLE):
            labelled = steps_of(session).set_label(session, model, label, number, reason=reason)
            say_labelled(call, labelled)
            return
        done = steps_of(session).promote(session, model, number, reason=reason, quorum=quorum)
    call.say(done, f"Version {number} of {model} is live{_previous_text(done)}.")


@command(group_options=True)
def rollback(
    call: Invocation,
    model: options.Model,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Version to go back to; `previous` if not given.")
    ] = None,
    reason: options.Reason = "",
) -> None:
    """Move `stable` back to the version that was live before; no load, no bytes."""
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name

    check_model_name(model)
    with call.session() as session, call.show_progress() as progress:
        progress.begin(f"roll back {model}")
        number = None if to is None else version_of(session, model, to)
        done = steps_of(session).rollback(session, model, to=number, reason=reason)
    call.say(done, f"Version {done.version} of {model} is live again{_previous_text(done)}.")


@command(group_options=True)
def reject(
    call: Invocation,
    model: options.Model,
    version: options.Version,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")],
) -> None:
    """Unload a version that nothing points to and take it out of the store; its number is never used again."""
    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.show_progress() as progress:
        number = version_of(session, model, version)
        progress.begin(f"reject version {number} of {model}")
        done = steps_of(session).reject(session, model, number, reason=reason)
    call.say(done, f"Version {number} of {model} is rejected: {done.reason}")


@command(group_options=True)
def retire(
    call: Invocation,
    model: options.Model,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=0, help="How many old versions without a label stay.")
    ] = 3,
    abandoned_after: Annotated[
        float,
        typer.Option(
            "--abandoned-after",
            metavar="HOURS",
            min=0,
            max=87_600,
            help="A newer version that never was live goes if nothing was done with it for so long.",
        ),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and change nothing.")] = False,
) -> None:
    """Delete old versions and abandoned ones; what is live, labelled or on its way always stays."""
    from datetime import timedelta

    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.show_progress() as progress:
        progress.begin(f"retire old versions of {model}")
        done = steps_of(session).retire(
            session, model, keep=keep, dry_run=dry_run, abandoned_after=timedelta(hours=abandoned_after)
        )
    verb = "Would delete" if dry_run else "Deleted"
    gone = f"{verb} {_version_list(done.retired)} of {model}" if done.retired else f"Nothing of {model} to delete"
    if done.abandoned:
        gone += f" (nobody went on with the deploy of {_version_list(done.abandoned)})"
    call.say(done, f"{gone}; {_version_list(done.kept)} stay{'s' if len(done.kept) == 1 else ''}.")


def _ask_about_new_name(call: Invocation, session: GroupSession, model: str, *, expected: bool) -> bool:
    """Tell whether the group does not know `model`; ask about one that may be a slip, if somebody can answer."""
    from tfs_deploy.deployment.model_names import new_name

    name = new_name(session, model)
    if name is not None and name.similar and not expected and call.can_ask():
        call.confirm(f"{name} Is that meant?", otherwise="--new-model")
    return name is not None


def _publish_bytes(directory: Path) -> int:
    """Return the bytes that a publish of `directory` copies; 0 where nothing can be read."""
    from tfs_deploy.savedmodel.files import is_directory
    from tfs_deploy.savedmodel.manifest import MANIFEST_PATH

    if not is_directory(directory):
        return 0
    manifest = directory / MANIFEST_PATH
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and path != manifest)


def _published_data(done: Published) -> dict[str, Any]:
    return {**_builtins(done.version), "uploaded_bytes": done.uploaded_bytes, "created": done.created}


def _builtins(value: object) -> dict[str, Any]:
    from tfs_deploy.jsonable import to_builtins

    data: dict[str, Any] = to_builtins(value)
    return data


def _previous_text(done: DeploymentRecord) -> str:
    return f" (before: {done.previous})" if done.previous else ""


def _version_list(versions: tuple[int, ...]) -> str:
    word = "version" if len(versions) == 1 else "versions"
    return f"{word} {', '.join(map(str, versions))}" if versions else "no version"
