"""Permission bits that count although the tests run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import pytest

_VERSION_3 = 0x20080522  # linux/capability.h
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """Let this thread, and threads that it starts meanwhile, do only what permission bits allow; Linux only."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "capget"):
        pytest.skip("nothing is forbidden to root")
    head = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    # Twice effective, permitted, inheritable: the lower and the upper 32 capabilities.
    sets = (ctypes.c_uint32 * 6)()
    _check(libc.capget(head, sets))
    whole = sets[0]
    sets[0] = whole & ~_OVERRIDES
    _check(libc.capset(head, sets))
    try:
        yield
    finally:
        sets[0] = whole
        _check(libc.capset(head, sets))


def _check(code: int) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
