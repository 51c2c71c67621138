"""Exit codes, and the report of an error: cause, remedy and exit code."""

from __future__ import annotations

import json
import sys
import traceback

from tfs_deploy.errors import TFSDeployError

DONE = 0
REFUSED = 1
USAGE = 2
COULD_NOT_TELL = 3
VERDICTS = {"pass": DONE, "fail": REFUSED, "inconclusive": COULD_NOT_TELL}
# What a shell reports for a process that a signal ended: 128 + its number.
INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: it unwinds like Ctrl-C, so child processes are ended and leases are released."""


def describe(error: BaseException) -> tuple[str, str, int]:
    """Return the cause, the remedy and the exit code of `error`."""
    if isinstance(error, TFSDeployError):
        return error.cause, error.remedy, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
        return "Interrupted.", "Run the same command again: it continues where this one stopped.", code
    detail = f": {error}" if str(error) else ""
    return f"Unexpected {type(error).__name__}{detail}.", "Run it again with --debug to see where.", REFUSED


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Print `error` as JSON on stdout, or as one line on stderr; return the exit code."""
    cause, remedy, code = describe(error)
    cause, remedy = _with_full_stop(_one_line(cause)), _one_line(remedy)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": cause, "remedy": remedy, "exit_code": code}, indent=1))  # noqa: T201
    else:
        print(f"tfs-deploy: {cause} {remedy}", file=sys.stderr)  # noqa: T201
    return code


def _one_line(text: str) -> str:
    # A message may quote a server: no control character of it may reach the terminal.
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _with_full_stop(sentence: str) -> str:
    # A cause that ends with a quoted message of a server may lack it.
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
