"""Commands that change what a serving group serves: one per step, and `deploy` for the whole way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli import exit_codes, options
from tfs_deploy.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from pathlib import Path

    from tfs_deploy.deployment.records import DeploymentRecord
    from tfs_deploy.store.protocol import Published
    from tfs_deploy.validation.report import ValidationReport


@command(somewhere=True)
def deploy(
    call: Invocation,
    directory: options.Directory,
    model: options.ModelOption,
    gates: options.Gates = None,
    python: options.Python = None,
) -> None:
    """Publish, load, validate and promote; a version that fails is rejected and `stable` stays where it is."""
    from tfs_deploy.cli import embedded, staged
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name
    from tfs_deploy.validation.config import read_gates
    from tfs_deploy.validation.runner import worst_metrics

    check_model_name(model)
    wanted = read_gates(gates)
    size = staged.check(directory)
    with call.session() as session, call.working() as work:
        done = steps_of(session).deploy(
            session,
            directory,
            model,
            wanted,
            make_runner=lambda: embedded.runner(python),
            on_step=lambda step: work.begin(step, total=size if step == "publish" else None),
            on_bytes=work.reach,
        )
    published = done.published
    data = {
        **_published(published),
        "verdict": done.report.verdict,
        "reason": done.report.reason(),
        "measured": worst_metrics(done.report),
        "stable": done.record.version,
        "previous": done.record.previous,
        "seconds": done.seconds,
    }
    before = f" (before: {done.record.previous})" if done.record.previous else ""
    told = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in done.seconds.items())
    call.say(
        data, f"Version {published.version.version} of {model} is live{before}. {done.report.reason()} Took: {told}."
    )


@command(somewhere=True)
def publish(call: Invocation, directory: options.Directory, model: options.ModelOption) -> None:
    """Put a SavedModel into the store as the next version; the same bytes again give the version they have."""
    from tfs_deploy.cli import staged
    from tfs_deploy.cli.progress import size_of
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name

    check_model_name(model)
    size = staged.check(directory)
    with call.session() as session, call.working() as work:
        work.begin("publish", total=size)
        done = steps_of(session).publish(session, directory, model, progress=work.reach)
    version = done.version
    if done.created:
        told = f"Published version {version.version} of {model}: {size_of(done.uploaded_bytes)}, {version.fingerprint}."
    else:
        told = f"Version {version.version} of {model} holds these bytes already, nothing was written."
    call.say(_published(done), told)


@command(somewhere=True)
def load(
    call: Invocation,
    model: options.Model,
    version: options.Version,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every replica has it AVAILABLE.")] = True,
) -> None:
    """Load a version on every replica, beside what is live; no label moves."""
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.deployment.steps.load import wait_until_available

    with call.session() as session, call.working() as work:
        number = version_of(session, model, version)
        count = len(session.group.replicas)
        work.begin(f"load version {number} of {model} on {count} replica(s)")
        steps_of(session).load(session, model, number)
        if wait:
            work.begin(f"wait until version {number} of {model} is AVAILABLE")
            wait_until_available(session, model, number)
        replicas = list(session.group.replicas)
    data = {"model": model, "version": number, "replicas": replicas, "available": True if wait else None}
    told = "is AVAILABLE on" if wait else "was asked for on"
    call.say(data, f"Version {number} of {model} {told} {', '.join(replicas)}.")


@command(somewhere=True)
def validate(
    call: Invocation,
    model: Annotated[str, typer.Argument(metavar="MODEL|DIR", help="Name of the model, or a SavedModel directory.")],
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Version number, or a label; left out for a directory.")
    ] = None,
    gates: options.Gates = None,
    python: options.Python = None,
    image: options.Images = None,
    copy: options.Copy = False,
) -> None:
    """Run the gates on a loaded version on every replica, or on a directory (or in images) in a throw-away server."""
    from tfs_deploy.cli.report_view import show_report
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.validation.config import read_gates
    from tfs_deploy.validation.runner import worst_metrics

    wanted = read_gates(gates)
    if image or copy:
        report = _validate_in_images(call, model, version, wanted, python=python, images=image or [], copy=copy)
    elif version is None:
        report = _validate_directory(call, model, wanted, python)
    else:
        with call.session() as session, call.working() as work:
            number = version_of(session, model, version)
            work.begin(f"validate version {number} of {model} on {len(session.group.replicas)} replica(s)")
            report = steps_of(session).validate(session, model, number, wanted)
    data = {**_builtins(report), "reason": report.reason(), "measured": worst_metrics(report)}
    call.answer(data, lambda console: show_report(console, report))
    call.exit_code = _exit_code(report)


@command(somewhere=True)
def promote(call: Invocation, model: options.Model, version: options.Version, reason: options.Reason = "") -> None:
    """Move `stable` to a version that passed its gates, on all replicas or on none."""
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.working() as work:
        number = version_of(session, model, version)
        work.begin(f"promote version {number} of {model}")
        done = steps_of(session).promote(session, model, number, reason=reason)
    call.say(done, f"Version {number} of {model} is live{_before(done)}.")


@command(somewhere=True)
def rollback(
    call: Invocation,
    model: options.Model,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Version to go back to; `previous` if not given.")
    ] = None,
    reason: options.Reason = "",
) -> None:
    """Move `stable` back to the version that was live before; no load, no bytes."""
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.names import check_model_name

    check_model_name(model)
    with call.session() as session, call.working() as work:
        work.begin(f"roll back {model}")
        number = None if to is None else version_of(session, model, to)
        done = steps_of(session).rollback(session, model, to=number, reason=reason)
    call.say(done, f"Version {done.version} of {model} is live again{_before(done)}.")


@command(somewhere=True)
def reject(
    call: Invocation,
    model: options.Model,
    version: options.Version,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")],
) -> None:
    """Unload a version that nothing points to and take it out of the store; its number is never used again."""
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.working() as work:
        number = version_of(session, model, version)
        work.begin(f"reject version {number} of {model}")
        done = steps_of(session).reject(session, model, number, reason=reason)
    call.say(done, f"Version {number} of {model} is rejected: {done.reason}")


@command(somewhere=True)
def retire(
    call: Invocation,
    model: options.Model,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=0, help="How many old versions without a label stay.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and change nothing.")] = False,
) -> None:
    """Delete old versions; what is live, labelled or newer than `stable` always stays."""
    from tfs_deploy.cli.versions import require_known_model
    from tfs_deploy.deployment.modes import steps_of

    with call.session() as session, call.working() as work:
        require_known_model(session, model)
        work.begin(f"retire old versions of {model}")
        done = steps_of(session).retire(session, model, keep=keep, dry_run=dry_run)
    verb = "Would delete" if dry_run else "Deleted"
    gone = f"{verb} {_listed(done.retired)} of {model}" if done.retired else f"Nothing of {model} to delete"
    call.say(done, f"{gone}; {_listed(done.kept)} stay{'s' if len(done.kept) == 1 else ''}.")


def _validate_directory(call: Invocation, text: str, gates: Any, python: str | None) -> ValidationReport:
    from tfs_deploy.cli import embedded
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment.offline_validation import validate_directory

    directory = _directory(text)
    runner = embedded.runner(python)
    with call.working() as work:
        work.begin(f"validate {directory} on a throw-away model server")
        return validate_directory(
            directory, "candidate", gates, runner=runner, clock=SystemClock(), wait=call.settings.wait
        )


def _directory(text: str) -> Path:
    from pathlib import Path

    from tfs_deploy.errors import NotFound
    from tfs_deploy.savedmodel.files import is_directory

    directory = Path(text)
    if not is_directory(directory):
        raise NotFound(
            f"There is no directory {text!r}.",
            f"Name a SavedModel directory, or for a published version: tfs-deploy validate {text} VERSION.",
        )
    return directory


def _validate_in_images(
    call: Invocation,
    model: str,
    version: str | None,
    gates: Any,
    *,
    python: str | None,
    images: list[str],
    copy: bool,
) -> ValidationReport:
    from tfs_deploy.cli.container_commands import validate_in_images
    from tfs_deploy.cli.versions import version_of
    from tfs_deploy.deployment.offline_validation import files_of
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.names import check_model_name, check_version

    if python is not None:
        raise InvalidInput("--python is for the embedded model server, --image for one in a container.", "Give one.")
    if version is None:
        return validate_in_images(call, _directory(model), images, gates, copy=copy)
    store = call.store()
    if version.isdecimal():
        # A number needs no serving group, only the store.
        number = check_version(version)
    else:
        with call.session() as session:
            number = version_of(session, model, version)
    with files_of(store, check_model_name(model), number) as directory:
        return validate_in_images(call, directory, images, gates, copy=copy, version=number, model=model)


def _published(done: Published) -> dict[str, Any]:
    return {**_builtins(done.version), "uploaded_bytes": done.uploaded_bytes, "created": done.created}


def _builtins(value: object) -> dict[str, Any]:
    from tfs_deploy.jsonable import to_builtins

    data: dict[str, Any] = to_builtins(value)
    return data


def _exit_code(report: ValidationReport) -> int:
    from tfs_deploy.validation.report import Verdict

    codes = {
        Verdict.PASS: exit_codes.DONE,
        Verdict.FAIL: exit_codes.REFUSED,
        Verdict.INCONCLUSIVE: exit_codes.COULD_NOT_TELL,
    }
    return codes[report.verdict]


def _before(done: DeploymentRecord) -> str:
    return f" (before: {done.previous})" if done.previous else ""


def _listed(versions: tuple[int, ...]) -> str:
    word = "version" if len(versions) == 1 else "versions"
    return f"{word} {', '.join(map(str, versions))}" if versions else "no version"
