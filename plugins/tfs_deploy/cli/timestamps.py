"""Moments as people write and read them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from tfs_deploy.errors import InvalidInput

_REMEDY = "Write it as ISO 8601 with a time zone, for example 2026-11-22T12:00:00Z or 2026-11-22T13:00:00+01:00."


def past(text: str, *, now: datetime) -> datetime:
    """Return the moment that `text` names; raise InvalidInput unless it is ISO 8601 with a time zone, up to `now`."""
    # Python 3.10 knows no Z.
    normal = re.sub(r"[zZ]$", "+00:00", text.strip())
    try:
        parsed = datetime.fromisoformat(normal)
    except ValueError as error:
        raise InvalidInput(f"The time {text!r} cannot be read.", _REMEDY) from error
    if parsed.tzinfo is None:
        raise InvalidInput(f"The time {text!r} has no time zone.", _REMEDY)
    if parsed > now:
        raise InvalidInput(f"The time {text!r} lies in the future.", "Ask for a time that the record can know about.")
    return parsed


def readable(text: str) -> str:
    """Return an ISO 8601 time as ``2026-11-22 12:00:00``, in UTC."""
    return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
