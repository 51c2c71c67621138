"""What a trigger reports back: one small dict, and the error that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfs_deploy.errors import DeadlineExceeded, LoadFailed, Permanent, TFSDeployError, Unreachable

AVAILABLE = "available"

# By what the waiting task should do; the first kind that fits is the one.
_STATUSES: tuple[tuple[str, type[TFSDeployError]], ...] = (
    ("failed", LoadFailed),
    ("timeout", DeadlineExceeded),
    ("unreachable", Unreachable),
    ("error", Permanent),
)


def available(version: int) -> dict[str, Any]:
    """Return the event of a version that is AVAILABLE on every replica."""
    return {"status": AVAILABLE, "message": "", "remedy": "", "version": version}


def ended_by(error: TFSDeployError, version: int | None) -> dict[str, Any]:
    """Return the event of a wait that ended with `error`; any other Transient counts as unreachable."""
    status = next((name for name, kind in _STATUSES if isinstance(error, kind)), "unreachable")
    return {"status": status, "message": error.cause, "remedy": error.remedy, "version": version}


def require_available(event: Mapping[str, Any]) -> int:
    """Return the version that is there; raise the error that the trigger met otherwise."""
    status = event.get("status")
    if status == AVAILABLE:
        return int(event["version"])
    kind = dict(_STATUSES).get(str(status))
    if kind is None:
        raise Unreachable(f"The trigger sent an event that means nothing: {dict(event)!r}.", "Run the task again.")
    raise kind(str(event.get("message", "")), str(event.get("remedy", "")))
