"""The error that a failed load stands for: only some codes are a fault of the version (contract 20.7)."""

from __future__ import annotations

import re

from tfs_deploy.errors import LoadFailed, LoadInterrupted, SetupError, TFSDeployError

# END with one of these is an unload; CANCELLED where the version was taken out during its load (contract 4.3).
UNLOADED_CODES = ("OK", "CANCELLED")
# The load ran out of memory, or its file system did not answer.
_INTERRUPTED_CODES = ("RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_ACCESS_CODES = ("PERMISSION_DENIED", "UNAUTHENTICATED")
# In the last line of a server that ends because its first model cannot be loaded (contract 20.8).
_CODE_IN_LOG = re.compile(r"due to error: ([A-Z_]+):")


def load_error(code: str, cause: str) -> TFSDeployError:
    """Return the error for a load that ended with `code`, the name of a code of TensorFlow."""
    if code in _INTERRUPTED_CODES:
        return LoadInterrupted(
            cause,
            "Give the server what it lacks, then load the version again.",
        )
    if code in _ACCESS_CODES:
        return SetupError(cause, "Let the server's user read the files, then load the version again.", code=code)
    return LoadFailed(cause, "Correct the export and publish it again: the number is not used twice.")


def code_in_log(text: str) -> str:
    """Return the code of the failed load that ended a server, from its log; empty if the log names none."""
    match = _CODE_IN_LOG.search(text)
    return match[1] if match else ""
