"""What every command has in common: its options, its answer as text or JSON, its errors as exit codes."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tfs_deploy.cli import exit_codes
from tfs_deploy.cli.options import GroupOptions, OutputOptions

if TYPE_CHECKING:
    # Only named here: `tfs-deploy --help` must not pay for them.
    from rich.console import Console

    from tfs_deploy.cli.progress import Progress
    from tfs_deploy.cli.settings import Settings
    from tfs_deploy.deployment.session import GroupSession
    from tfs_deploy.store.protocol import Store

_NUMBER = re.compile(r"[+-]?[0-9.]+")


@dataclass(slots=True)
class Invocation:
    """One run of one command; `exit_code` is what it ends with if no error is raised."""

    where: GroupOptions
    output: OutputOptions
    exit_code: int = exit_codes.DONE
    _settings: Settings | None = field(default=None, repr=False)

    @property
    def settings(self) -> Settings:
        """Return options, environment and settings file as one."""
        from tfs_deploy.cli.settings import read_settings

        if self._settings is None:
            self._settings = read_settings(self.where, environ=os.environ, directory=Path.cwd())
        return self._settings

    def store(self) -> Store:
        """Open the store."""
        from tfs_deploy.store.open import open_store

        return open_store(self.settings.store_uri(), s3=self.settings.s3)

    def existing_store(self) -> Store:
        """Open the store for a command that only reads; raise NotFound for a directory that does not exist."""
        from tfs_deploy.errors import NotFound

        store = self.store()
        if store.directory is not None and not store.directory.is_dir():
            raise NotFound(
                f"There is no store in {str(store.directory)!r}: the directory does not exist.",
                "Check the path for a typing error; the first publish creates a store.",
            )
        return store

    @contextmanager
    def session(self, *, reads_only: bool = False) -> Iterator[GroupSession]:
        """Open the serving group for the block; with `reads_only` (no version is written) its store must exist."""
        from tfs_deploy.deployment.session import open_session

        settings = self.settings
        store = self.existing_store() if reads_only else self.store()
        with open_session(
            store,
            settings.serving_group(store.uri),
            actor=settings.actor,
            tls=settings.tls,
            timeouts=settings.timeouts,
            wait=settings.wait,
        ) as session:
            yield session

    def can_ask(self) -> bool:
        """Tell whether somebody can answer a question."""
        return sys.stdin.isatty()

    def confirm(self, question: str, *, otherwise: str) -> None:
        """Ask before something that cannot be undone at once; raise InvalidInput where nobody can answer.

        `otherwise` is the option that answers the question on the command line.
        """
        from tfs_deploy.errors import InvalidInput, Refused

        if not self.can_ask():
            raise InvalidInput(f"This needs a confirmation: {question}", f"Add {otherwise} to the command.")
        if not typer.confirm(question, err=True):
            raise Refused("Nothing was changed.", "Run the command again and answer with y.")

    def show_progress(self) -> AbstractContextManager[Progress]:
        """Show progress on stderr during the block."""
        from tfs_deploy.cli.progress import show_progress

        return show_progress(silent=self.output.as_json)

    def answer(self, data: object, show: Callable[[Console], None]) -> None:
        """Print the answer of the command: `data` as JSON, or what `show` prints."""
        if self.output.as_json:
            from tfs_deploy.jsonable import to_json

            typer.echo(to_json(data).decode(), nl=False)
        else:
            from tfs_deploy.cli.tables import stdout_console

            show(stdout_console())

    def say(self, data: object, sentence: str) -> None:
        """Print the answer of the command: `data` as JSON, or one sentence."""
        self.answer(data, lambda console: console.print(sentence, markup=False, highlight=False, soft_wrap=True))


def version_of(session: GroupSession, model: str, text: str) -> int:
    """Return the version that `text` names: a number, or a label of `model` in this group.

    Raises NotFound for a label that the group does not have, InvalidInput for what is neither.
    """
    from tfs_deploy.deployment import desired_state
    from tfs_deploy.errors import NotFound
    from tfs_deploy.names import check_label, check_model_name, check_version

    check_model_name(model)
    if not text or _NUMBER.fullmatch(text):
        return check_version(text)
    labels = desired_state.read(session.store.documents, session.group).labels(model)
    if check_label(text) not in labels:
        known = ", ".join(f"{label} = {version}" for label, version in sorted(labels.items())) or "none"
        raise NotFound(
            f"Model {model!r} has no label {text!r} in group {session.group.name!r} (labels: {known}).",
            "Give a version number, or one of those labels.",
        )
    return labels[text]


def command(*, group_options: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a function ``(call: Invocation, ...)`` the common options, and turn its errors into exit codes.

    Typer needs one parameter per option: a parameter of `function` whose type is a dataclass becomes one option per
    field, and `function` gets the value. `group_options` adds `GroupOptions`, for a command on a store or a serving
    group. A command that only reads the store takes them all, so that a script can give every command the same ones.
    """
    common: dict[str, type] = {"output": OutputOptions}
    if group_options:
        common = {"where": GroupOptions, **common}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        # Not `get_type_hints`: on Python 3.10 it hides the annotation of a parameter whose default is None.
        parameters = inspect.signature(function, eval_str=True).parameters
        own = {name: parameter for name, parameter in parameters.items() if name != "call"}
        groups: dict[str, Any] = {
            name: parameter.annotation for name, parameter in own.items() if is_dataclass(parameter.annotation)
        }
        groups |= common

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            given = {name: _take(kind, values) for name, kind in groups.items()}
            call = Invocation(given.pop("where", GroupOptions()), given.pop("output"))
            _log_to_stderr(debug=call.output.debug)
            raise typer.Exit(_run(function, call, {**values, **given}))

        flat = [parameter for name, parameter in own.items() if name not in groups]
        flat += [option for kind in groups.values() for option in _options_of(kind)]
        wrapper.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        del wrapper.__wrapped__
        return wrapper

    return decorate


def _options_of(kind: type) -> list[inspect.Parameter]:
    fields = inspect.signature(kind, eval_str=True).parameters.values()
    return [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]


def _take(kind: type, values: dict[str, Any]) -> Any:
    """Make a `kind` of its fields in `values`, which are removed there."""
    return kind(**{name: values.pop(name) for name in inspect.signature(kind).parameters if name in values})


def _run(function: Callable[..., None], call: Invocation, values: dict[str, Any]) -> int:
    try:
        function(call, **values)
    except BrokenPipeError:
        # The reader of the pipe has ended (`| head`), so an error cannot be printed.
        raise
    except (Exception, KeyboardInterrupt) as error:
        return exit_codes.report(error, as_json=call.output.as_json, debug=call.output.debug)
    return call.exit_code


def _log_to_stderr(*, debug: bool) -> None:
    """Log warnings to stderr, with --debug everything. Errors are left out: the command prints its own error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
    if not debug:
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
    logger = logging.getLogger("tfs_deploy")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger.propagate = False
