"""What a load costs the other models of a running server."""

from __future__ import annotations

import threading

import pytest

from modelserver.wire import model

pytestmark = pytest.mark.tensorflow


def test_a_load_does_not_stall_other_models(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base"))
    answered = 0
    done = threading.Event()

    def load():
        for version in range(1, 4):
            install("several", version, tmp_path / "other")
        wire.reload(model(name, tmp_path / "base"), model(f"{name}_b", tmp_path / "other", 1, 2, 3))
        done.set()

    loading = threading.Thread(target=load)
    loading.start()
    while not done.is_set():
        wire.answer(name)
        answered += 1
    loading.join()
    # Three loads, of some tenths of a second each, and between their steps the other model goes on answering.
    assert answered > 10
