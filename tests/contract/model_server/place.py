"""What the contract suite's tests share: flags, the order of events as a client sees it, config files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from embedded_server import RPC_DRIVEN_FLAGS as RPC_DRIVEN_FLAGS
from embedded_server import EmbeddedServer
from modelserver.wire import Wire

Start = Callable[..., EmbeddedServer]

LOADERR = (
    "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
    "`saved_model.pb`)\nSpecified file path: "
)
# The life of a version whose load works; a client that asks now and then sees some of it, in this order.
LIFE = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
_LOOK_SECONDS = 0.004


class Events:
    """Asks for the rows of a model again and again while a block runs; `frames` are the different answers, in order.

    The first is from before the block and the last from after it, however busy the machine is meanwhile.
    """

    def __init__(self, target: str, model: str) -> None:
        self._wire = Wire(target)
        self._model = model
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.frames: list[dict[int, str]] = []

    def __enter__(self) -> Events:
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if kind is None:
            self._note()
        self._wire.close()

    def of(self, version: int) -> list[str]:
        """Return the states of one version in the order in which they were seen."""
        states = [frame[version] for frame in self.frames if version in frame]
        return [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state]

    def _look(self) -> None:
        while not self._done.is_set():
            self._note()
            time.sleep(_LOOK_SECONDS)

    def _note(self) -> None:
        frame = self._wire.states(self._model)
        if not self.frames or frame != self.frames[-1]:
            self.frames.append(frame)


def is_in_order(seen: list[str], whole: tuple[str, ...] = LIFE) -> bool:
    """Tell whether `seen` is `whole` with some left out."""
    rest = iter(whole)
    return all(state in rest for state in seen)


def write_config(path: Path, *entries: str) -> str:
    """Write a config file and return the flag that names it."""
    staged = path.with_name(f"{path.name}.staged")
    staged.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    staged.rename(path)
    return f"--model_config_file={path}"


def entry(name: str, base: Path, *versions: int, more: str = "", **labels: int) -> str:
    """Return one `config` of a config file."""
    policy = " ".join(f"versions: {version}" for version in versions)
    told = f"model_version_policy {{ specific {{ {policy} }} }} " if versions else ""
    told += " ".join(f"version_labels {{ key: '{label}' value: {number} }}" for label, number in labels.items())
    return f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow' {told} {more} }}"
