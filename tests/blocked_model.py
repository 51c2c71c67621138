"""A model whose load waits until the test lets it end: its initialization opens a pipe that nobody writes to yet.

A model server tries a load in a child process first, so a load may open the path twice: the end of the wait replaces
the pipe by a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfs_deploy.serving.codec import messages

# `tensorflow/core/framework/types.proto`
_FLOAT, _STRING = 1, 7


class BlockedModel:
    """One SavedModel in `directory`; its loads wait on `gate`."""

    def __init__(self, directory: Path, gate: Path) -> None:
        self.directory = directory
        self._gate = gate
        self._pipe: int | None = None
        os.mkfifo(gate)
        directory.mkdir(parents=True)
        (directory / "saved_model.pb").write_bytes(_saved_model(str(gate)).SerializeToString())

    def let_load(self) -> None:
        """End the wait of every load, also of later ones: the version becomes AVAILABLE."""
        if self._free():
            # As long as what is read from the pipe: the size is asked for by the path, after it was opened.
            ready = self._gate.with_name(f"{self._gate.name}-ready")
            ready.write_bytes(b"")
            ready.rename(self._gate)

    def let_fail(self) -> None:
        """End the wait of every load, also of later ones: the version fails, for the file is not there."""
        if self._free():
            self._gate.unlink()

    def _free(self) -> bool:
        if not self._gate.is_fifo():
            return False
        # Opened for both, the pipe frees whoever waits for its other end, and does not wait itself. It stays open for
        # those who have just begun to wait.
        self._pipe = os.open(self._gate, os.O_RDWR | os.O_NONBLOCK)
        return True

    def close(self) -> None:
        """End the wait, whatever the test came to."""
        self.let_load()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def _saved_model(gate: str) -> Any:
    """Return a model that answers y = x + x, and reads `gate` in its initialization."""
    saved = messages.SavedModel(saved_model_schema_version=1)
    meta_graph = saved.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 134
    x = graph.node.add(name="x", op="Placeholder")
    x.attr["dtype"].type = _FLOAT
    x.attr["shape"].shape.unknown_rank = True
    graph.node.add(name="y", op="AddV2", input=["x", "x"]).attr["T"].type = _FLOAT
    _text(graph, "path", gate.encode())
    graph.node.add(name="read", op="ReadFile", input=["path"])
    _text(graph, "never", b"never read")
    unequal = graph.node.add(name="unequal", op="NotEqual", input=["read", "never"])
    unequal.attr["T"].type = _STRING
    # The only kind of these operations that the runtime does not drop as having no effect.
    check = graph.node.add(name="check", op="Assert", input=["unequal", "read"])
    check.attr["T"].list.type.append(_STRING)
    graph.node.add(name="wait", op="NoOp", input=["^check"])
    initialization = meta_graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"]
    initialization.name = "wait"
    initialization.tensor_shape.unknown_rank = True
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for side, alias in ((signature.inputs, "x"), (signature.outputs, "y")):
        side[alias].name = f"{alias}:0"
        side[alias].dtype = _FLOAT
        side[alias].tensor_shape.unknown_rank = True
    return saved


def _text(graph: Any, name: str, value: bytes) -> None:
    constant = graph.node.add(name=name, op="Const")
    constant.attr["dtype"].type = _STRING
    constant.attr["value"].tensor.dtype = _STRING
    constant.attr["value"].tensor.tensor_shape.SetInParent()
    constant.attr["value"].tensor.string_val.append(value)
