"""The name of one request in every log: the client's own if it is a plain one."""

from __future__ import annotations

import random
import re

HEADER = "X-Request-Id"
_PLAIN = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)


def request_id(given: str | None) -> str:
    """Return `given` if it can stand in a log and a header as it is; a random one otherwise."""
    return given if given and _PLAIN.fullmatch(given) else f"{random.getrandbits(128):032x}"
