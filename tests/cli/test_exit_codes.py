"""Errors become one sentence and an exit code, in one place."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tfs_deploy import errors
from tfs_deploy.cli import exit_codes
from tfs_deploy.cli.main import app

SAMPLES = [
    (errors.Refused("It is so.", "Do this."), 1),
    (errors.NotFound("It is so.", "Do this."), 2),
    (errors.ValidationFailed("It is so.", "Do this."), 1),
    (errors.InvalidInput("It is so.", "Do this."), 2),
    (errors.MissingExtra("tensorflow", "tensorflow"), 2),
    (errors.Unreachable("It is so.", "Do this."), 3),
    (errors.DeadlineExceeded("It is so.", "Do this."), 3),
    (errors.Inconclusive("It is so.", "Do this."), 3),
    (KeyboardInterrupt(), 130),
    (exit_codes.Terminated(), 143),
    (ZeroDivisionError("division by zero"), 1),
]


@pytest.mark.parametrize(("error", "code"), SAMPLES, ids=lambda value: type(value).__name__)
def test_every_kind_has_its_exit_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_codes.report(error, as_json=False, debug=False) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(("error", "code"), SAMPLES, ids=lambda value: type(value).__name__)
def test_as_json_it_is_one_document_on_stdout(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_codes.report(error, as_json=True, debug=False)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told.keys() == {"error", "remedy", "exit_code"}
    assert told["exit_code"] == code
    assert told["error"]
    assert told["remedy"]
    assert err == ""


def test_what_a_server_said_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    exit_codes.report(errors.LoadFailed("no\x1b[2J\nvariables", "Correct it."), as_json=False, debug=False)
    assert capsys.readouterr().err == "tfs-deploy: no [2J variables. Correct it.\n"


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise errors.Refused("It is so.", "Do this.")
    except errors.Refused as error:
        exit_codes.report(error, as_json=False, debug=True)
    assert "test_exit_codes.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    ["frobnicate", "promote m", "promote m 1 --frob", "publish .", "retire m --keep x"],
)
def test_a_command_line_that_cannot_be_read_is_a_usage_error(arguments: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--help" in result.stderr
    assert len(result.stderr.splitlines()) == 1

    as_json = CliRunner().invoke(app, [*arguments.split(), "--json"])
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["exit_code"] == 2


def test_no_command_shows_the_help_and_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "promote" in result.stdout


def test_an_unexpected_error_is_one_sentence_without_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(uri: str, **options: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("tfs_deploy.store.open.open_store", stumble)
    arguments = ["history", "m", "--store", "/nowhere"]

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert (
        result.stderr == "tfs-deploy: Unexpected ZeroDivisionError: by zero. Run it again with --debug to see where.\n"
    )
    assert "in stumble" in CliRunner().invoke(app, [*arguments, "--debug"]).stderr


def test_ctrl_c_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(uri: str, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tfs_deploy.store.open.open_store", interrupted)
    result = CliRunner().invoke(app, ["history", "m", "--store", "/nowhere"])
    assert result.exit_code == 130
    assert result.stderr.startswith("tfs-deploy: Interrupted. Run the same command again")
