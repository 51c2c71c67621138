"""What goes on in a thread while a test does something else, and must not end unseen."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_END_SECONDS = 60.0


@contextlib.contextmanager
def looking_on(look: Callable[[], object], *, pause: float, name: str) -> Iterator[None]:
    """Call `look` again and again, `pause` seconds apart, for the block; fail at its end if a look raised."""
    done = threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            while not done.wait(pause):
                look()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_END_SECONDS)
    assert not thread.is_alive(), f"{name} hangs"
    if errors:
        raise AssertionError(f"{name} ended: {errors[0]!r}") from errors[0]
