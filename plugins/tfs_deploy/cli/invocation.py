"""What every command has in common: options about its surroundings, answers as text or JSON, errors as exit codes."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli import exit_codes

if TYPE_CHECKING:
    # Only named here: `tfs-deploy --help` must not pay for them.
    from rich.console import Console

    from tfs_deploy.cli.progress import Work
    from tfs_deploy.cli.settings import Settings
    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.store.protocol import Store

_WHERE = "Where"
_OUTPUT = "Output"
# A pipe has no width of its own.
_PIPE_COLUMNS = 100


@dataclass(slots=True)
class Invocation:
    """One run of one command; `exit_code` is what it ends with if no error is raised."""

    options: dict[str, Any]
    as_json: bool
    debug: bool
    exit_code: int = exit_codes.DONE
    _settings: Settings | None = field(default=None, repr=False)

    @property
    def settings(self) -> Settings:
        """Return flags, environment and settings file as one."""
        from tfs_deploy.cli.settings import Flags, read_settings

        if self._settings is None:
            self._settings = read_settings(Flags(**self.options), environ=os.environ, directory=Path.cwd())
        return self._settings

    def store(self) -> Store:
        """Open the store."""
        from tfs_deploy.store.open import open_store

        return open_store(self.settings.store_uri(), s3=self.settings.s3)

    @contextmanager
    def session(self) -> Iterator[GroupSession]:
        """Open the serving group for the block."""
        from tfs_deploy.deployment.session import open_session

        settings = self.settings
        store = self.store()
        with open_session(
            store,
            settings.serving_group(store.uri),
            actor=settings.actor,
            tls=settings.tls,
            timeouts=settings.timeouts,
            wait=settings.wait,
        ) as session:
            yield session

    def working(self) -> AbstractContextManager[Work]:
        """Show progress in the block."""
        from tfs_deploy.cli.progress import show

        return show(silent=self.as_json)

    def answer(self, data: object, show: Callable[[Console], None]) -> None:
        """Print the answer of the command: `data` as JSON, or what `show` prints."""
        if self.as_json:
            from tfs_deploy.jsonable import to_json

            typer.echo(to_json(data).decode(), nl=False)
        else:
            show(terminal())

    def say(self, data: object, sentence: str) -> None:
        """Print the answer of the command: `data` as JSON, or one sentence."""
        self.answer(data, lambda console: console.print(sentence, markup=False, highlight=False, soft_wrap=True))


def terminal() -> Console:
    """Return a console on stdout that is no narrower than a table needs where stdout is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_COLUMNS
    return console


def command(*, somewhere: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function ``(call: Invocation, ...)`` the common options, and make errors exit codes.

    `somewhere`: the command works on a store or a serving group. One that only reads the store takes the options of
    a serving group too, so that a script can give the same ones to every command.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        # Not `get_type_hints`: on Python 3.10 it hides the annotation of a parameter whose default is None.
        taken = inspect.signature(function, eval_str=True).parameters.values()
        own = [parameter for parameter in taken if parameter.name != "call"]
        common = [*(_WHERE_OPTIONS if somewhere else ()), *_OUTPUT_OPTIONS]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            as_json, debug = values.pop("as_json"), values.pop("debug")
            options = {parameter.name: values.pop(parameter.name) for parameter in common if parameter.name in values}
            call = Invocation(options, as_json, debug)
            _log_to_stderr(debug=debug)
            raise typer.Exit(_run(function, call, values))

        parameters = [*own, *common]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del wrapper.__wrapped__
        return wrapper

    return decorate


def _run(function: Callable[..., None], call: Invocation, values: dict[str, Any]) -> int:
    try:
        function(call, **values)
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): nothing to tell it.
        raise
    except (Exception, KeyboardInterrupt) as error:
        return exit_codes.report(error, as_json=call.as_json, debug=call.debug)
    return call.exit_code


def _log_to_stderr(*, debug: bool) -> None:
    """Show warnings; with --debug everything. An error's log lines are left out: its sentence comes anyway."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
    if not debug:
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
    logger = logging.getLogger("tfs_deploy")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger.propagate = False


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_WHERE_OPTIONS = (
    _option(
        "store",
        Annotated[
            str | None,
            typer.Option(
                metavar="DIRECTORY",
                help="Where published versions live (or TFS_DEPLOY_STORE).",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
    _option(
        "group",
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Name of the serving group, 'default' if not given (or TFS_DEPLOY_GROUP).",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
    _option(
        "config",
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Settings file; without it tfs-deploy.yaml in the working directory, if there is one.",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
    _option(
        "target",
        Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT[,...]",
                help="gRPC address of every replica (or TFS_DEPLOY_TARGET).",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
    _option(
        "actor",
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Who acts, for the record; user@host if not given (or TFS_DEPLOY_ACTOR).",
                rich_help_panel=_WHERE,
            ),
        ],
        None,
    ),
)
_OUTPUT_OPTIONS = (
    _option(
        "as_json",
        Annotated[bool, typer.Option("--json", help="Answer in JSON on stdout, errors too.", rich_help_panel=_OUTPUT)],
        False,
    ),
    _option(
        "debug",
        Annotated[
            bool, typer.Option("--debug", help="Log every step, show where an error arose.", rich_help_panel=_OUTPUT)
        ],
        False,
    ),
)
