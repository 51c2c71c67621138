"""The same call on every replica: results by target, the first error, and an end at once on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from tfs_deploy.errors import Unreachable
from tfs_deploy.serving.concurrent_calls import call_each


class SilentClient:
    """A client whose RPC ends only when the client is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt: a test process may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_results_are_by_target() -> None:
    clients = {target: SilentClient() for target in ("a:1", "b:1", "c:1")}
    assert call_each(clients, str.upper) == {"a:1": "A:1", "b:1": "B:1", "c:1": "C:1"}
    assert call_each({}, str.upper) == {}
    assert not any(client.closed.is_set() for client in clients.values())


def test_an_error_is_raised_after_all_calls_ended() -> None:
    ended = []

    def call(target: str) -> None:
        if target == "a:1":
            raise Unreachable("Replica a:1 did not answer.", "Start it.")
        ended.append(target)

    with pytest.raises(Unreachable, match="a:1"):
        call_each({target: SilentClient() for target in ("a:1", "b:1", "c:1")}, call)
    assert sorted(ended) == ["b:1", "c:1"]


def test_ctrl_c_ends_calls_that_no_server_answers(ctrl_c: None) -> None:
    clients = {target: SilentClient() for target in ("a:1", "b:1")}
    main_thread = threading.main_thread().ident or 0
    both_wait = threading.Barrier(2, action=lambda: signal.pthread_kill(main_thread, signal.SIGINT))

    def call(target: str) -> None:
        both_wait.wait(30)
        assert clients[target].closed.wait(60)

    with pytest.raises(KeyboardInterrupt):
        call_each(clients, call)
    assert all(client.closed.is_set() for client in clients.values())
