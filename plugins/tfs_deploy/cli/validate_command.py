"""The command `validate`: on the replicas, on an embedded model server, or in containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tfs_deploy.cli import exit_codes, options
from tfs_deploy.cli.invocation import Invocation, command, version_of
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from tfs_deploy.serving.runner import EmbeddedRunner
    from tfs_deploy.validation.config import Gates
    from tfs_deploy.validation.report import ValidationReport

# The model's name on a throw-away server, where it has none of its own yet.
_CANDIDATE = "candidate"
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


@command(group_options=True)
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
    from tfs_deploy.deployment.modes import steps_of
    from tfs_deploy.errors import InvalidInput
    from tfs_deploy.jsonable import to_builtins
    from tfs_deploy.validation.config import read_gates
    from tfs_deploy.validation.runner import worst_metrics

    policy = read_gates(gates)
    if (image or copy) and python is not None:
        raise InvalidInput("--python is for the embedded model server, --image for one in a container.", "Give one.")
    if image or copy:
        report = _validate_in_images(call, model, version, policy, images=image or [], copy=copy)
    elif version is None:
        report = _validate_directory(call, model, policy, python)
    else:
        with call.session() as session, call.show_progress() as progress:
            number = version_of(session, model, version)
            replicas = plural(len(session.group.replicas), "replica")
            progress.begin(f"validate version {number} of {model} on {replicas}")
            report = steps_of(session).validate(session, model, number, policy)
    data = {**to_builtins(report), "reason": report.reason(), "measured": worst_metrics(report)}
    call.answer(data, lambda console: _show_report(console, report))
    call.exit_code = exit_codes.VERDICTS[report.verdict.value]


def embedded_runner(python: str | None) -> EmbeddedRunner:
    """Return a runner of embedded model servers; raise MissingExtra if `python` is None and TensorFlow is missing."""
    from tfs_deploy.cli.program_commands import require_tensorflow
    from tfs_deploy.serving.runner import EmbeddedRunner

    if python is None:
        require_tensorflow()
    return EmbeddedRunner(python=python)


def _validate_directory(call: Invocation, text: str, gates: Gates, python: str | None) -> ValidationReport:
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.deployment.offline_validation import validate_directory

    directory = _directory(text)
    runner = embedded_runner(python)
    with call.show_progress() as progress:
        progress.begin(f"validate {directory} on a throw-away model server")
        return validate_directory(
            directory, _CANDIDATE, gates, runner=runner, clock=SystemClock(), wait=call.settings.wait
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
    call: Invocation, model: str, version: str | None, gates: Gates, *, images: list[str], copy: bool
) -> ValidationReport:
    """Validate a directory, or a version of the store, in a throw-away container of each image."""
    from tfs_deploy.deployment.offline_validation import UNPUBLISHED, files_of
    from tfs_deploy.names import check_model_name, check_version

    if version is None:
        return _run_in_images(call, _directory(model), _CANDIDATE, UNPUBLISHED, gates, images=images, copy=copy)
    if version.isdecimal():
        # A number needs no serving group, only the store.
        number = check_version(version)
    else:
        with call.session() as session:
            number = version_of(session, model, version)
    with files_of(call.store(), check_model_name(model), number) as directory:
        return _run_in_images(call, directory, model, number, gates, images=images, copy=copy)


def _run_in_images(
    call: Invocation, directory: Path, model: str, version: int, gates: Gates, *, images: list[str], copy: bool
) -> ValidationReport:
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.containers.options import ServerOptions
    from tfs_deploy.containers.runner import Delivery, runners_for
    from tfs_deploy.deployment.offline_validation import validate_in_each

    clock, wait = SystemClock(), call.settings.wait
    delivery = Delivery.COPY if copy else Delivery.MOUNT
    runners = runners_for(images, ServerOptions(), delivery=delivery, clock=clock)
    with call.show_progress() as progress:
        progress.begin(f"validate {directory} in {', '.join(images)}")
        return validate_in_each(directory, model, gates, runners=runners, clock=clock, wait=wait, version=version)


def _show_report(console: Console, report: ValidationReport) -> None:
    """Print one row per gate and replica, and the sentence that decides."""
    from rich.text import Text

    from tfs_deploy.cli.tables import Column, print_table

    columns = [Column("gate"), Column("replica", folds=True), Column("verdict"), Column("result", folds=True)]
    rows = [
        (check.gate, check.replica, Text(check.verdict.value, style=_STYLES[check.verdict.value]), check.detail)
        for check in report.checks
    ]
    print_table(console, columns, rows)
    console.print()
    console.print(Text(report.reason(), style=_STYLES[report.verdict.value]))
