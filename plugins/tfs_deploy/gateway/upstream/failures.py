"""What the failure of one attempt means for the request: try another replica, or give up."""

from __future__ import annotations

import re
from enum import Enum

from tfs_deploy.errors import ModelServerError, NotFound, TFSDeployError, Unreachable


class Fate(Enum):
    """What became of a request that was not answered."""

    REFUSED = "refused"
    """It did not run; every other replica may be asked."""
    ABSENT = "absent"
    """The replica does not have the model under this label, or no longer the version."""
    LOST = "lost"
    """The replica went away with it, and perhaps because of it."""
    FINAL = "final"
    """It was answered with an error that any replica would give, or its time is over."""


# What gRPC's core says when it had no connection, and TF Serving when its batching queue is full. Whatever else ends
# with UNAVAILABLE may have been under way.
_NEVER_RAN = re.compile(r"failed to connect|name resolution|DNS resolution|queue .{0,80}\bfull\b", re.I | re.S)
_GONE_CODES = {"CANCELLED", "ABORTED"}
# A server that ends mid-call shows as one of these too.
_GONE = re.compile(r"stream removed|RST_STREAM|socket closed|connection reset|broken pipe|GOAWAY", re.I)


def fate_of(error: TFSDeployError) -> Fate:
    """Return what `error`, which an attempt ended with, means."""
    if isinstance(error, Unreachable):
        return Fate.REFUSED if _NEVER_RAN.search(error.cause) else Fate.LOST
    if isinstance(error, NotFound):
        return Fate.ABSENT
    if isinstance(error, ModelServerError):
        if error.code == "UNAVAILABLE":  # no TLS, or no gRPC: nothing ran
            return Fate.REFUSED
        if error.code in _GONE_CODES or (error.code in ("UNKNOWN", "INTERNAL") and _GONE.search(error.cause)):
            return Fate.LOST
    return Fate.FINAL
