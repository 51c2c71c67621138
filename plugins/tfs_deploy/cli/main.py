"""The program ``tfs-deploy``: the steps of a deploy without Airflow."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from tfs_deploy import __version__
from tfs_deploy.cli import (
    bake_command,
    exit_codes,
    group_commands,
    label_command,
    model_commands,
    program_commands,
    record_commands,
    status_command,
    step_commands,
    sync_command,
    traffic_command,
    validate_command,
)
from tfs_deploy.errors import InvalidInput

_PROGRAM = "tfs-deploy"
# The root of typer's usage errors, wherever this release of typer keeps it.
_UsageError: Any = typer.BadParameter.__mro__[1]

_MODELS = "SavedModels"
_STEPS = "Steps of a deploy"
_RECORD = "Status and history"
_PROGRAMS = "Long-running programs"
_UPKEEP = "Upkeep"


class PlainCommand(TyperCommand):
    """A command whose help shows no ``<bool>`` at a flag and no braces at an argument."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters without such types."""
        return _without_types(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; a required argument stands for itself."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class PlainGroup(TyperGroup):
    """A group of commands with the help of `PlainCommand`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters without such types."""
        return _without_types(super().get_params(ctx))


class Program(PlainGroup):
    """The group of all commands; a command line that cannot be read is reported like any other error."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Run one command line and end the process with its exit code (or return it, if not `standalone_mode`)."""
        arguments = list(sys.argv[1:] if args is None else args)
        standalone = options.pop("standalone_mode", True)
        try:
            code = super().main(arguments, prog_name, **{**options, "standalone_mode": False})
        except _UsageError as error:
            code = _report_usage(error, arguments)
        except (typer.Abort, KeyboardInterrupt):
            code = exit_codes.report(KeyboardInterrupt(), as_json="--json" in arguments, debug=False)
        if not standalone:
            return code
        sys.exit(code or exit_codes.DONE)


class PassThrough(PlainCommand):
    """A command whose arguments are those of another program, `--help` among them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take everything as it is."""
        ctx.args = list(args)
        return list(args)


app = typer.Typer(
    cls=Program,
    name=_PROGRAM,
    help="From a training checkpoint to a version that answers production traffic in TensorFlow Serving.",
    epilog="Exit codes: 0 done or passed, 1 a gate failed or refused, 2 usage or bad input, 3 could not tell.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)
        raise typer.Exit(exit_codes.USAGE)


for _function in (model_commands.export, model_commands.inspect):
    app.command(cls=PlainCommand, rich_help_panel=_MODELS)(_function)
for _function in (
    step_commands.deploy,
    step_commands.publish,
    step_commands.load,
    validate_command.validate,
    step_commands.promote,
    label_command.label,
    bake_command.bake,
    step_commands.rollback,
    step_commands.reject,
    step_commands.retire,
    group_commands.reconcile,
    group_commands.undeploy,
):
    app.command(cls=PlainCommand, rich_help_panel=_STEPS)(_function)
app.command(cls=PlainCommand, rich_help_panel=_RECORD)(status_command.status)
app.command(cls=PlainCommand, rich_help_panel=_RECORD)(record_commands.history)
app.command("what-served", cls=PlainCommand, rich_help_panel=_RECORD)(record_commands.what_served)
app.command(cls=PlainCommand, rich_help_panel=_RECORD)(traffic_command.traffic)
app.command(cls=PlainCommand, rich_help_panel=_PROGRAMS)(sync_command.sync)
app.command(cls=PlainCommand, rich_help_panel=_PROGRAMS)(program_commands.gateway)
_golden = typer.Typer(cls=PlainGroup, help="Request files out of captured traffic.")
_golden.command("make", cls=PlainCommand)(model_commands.make_golden)
app.add_typer(_golden, name="golden", rich_help_panel=_MODELS)


@app.command("model-server", cls=PassThrough, rich_help_panel=_PROGRAMS, add_help_option=False)
def _model_server(context: typer.Context) -> None:
    """Run the embedded model server; takes tensorflow_model_server's flags (--help lists them)."""
    from tfs_deploy.cli.program_commands import exec_model_server
    from tfs_deploy.errors import TFSDeployError

    try:
        exec_model_server(list(context.args))
    except TFSDeployError as error:
        raise typer.Exit(exit_codes.report(error, as_json=False, debug=False)) from error


app.command(cls=PlainCommand, rich_help_panel=_UPKEEP)(program_commands.reap)


def run_program() -> NoReturn:
    """Run the command line of this process."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name=_PROGRAM)
    except KeyboardInterrupt as error:  # outside of every command: while they are set up
        sys.exit(exit_codes.report(error, as_json="--json" in sys.argv, debug=False))
    sys.exit(exit_codes.DONE)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise exit_codes.Terminated


def _report_usage(error: Any, arguments: list[str]) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else _PROGRAM
    cause = error.format_message().strip().rstrip(".")
    return exit_codes.report(
        InvalidInput(f"{cause}.", f"See: {path} --help."), as_json="--json" in arguments, debug=False
    )


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperArgument):
            parameter.display_type_rich = lambda ctx: ""  # type: ignore[method-assign]
        elif getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
