"""Check, without TensorFlow, that a directory is a SavedModel which TF Serving can load and answer from.

TF Serving makes a version without ``variables.index`` AVAILABLE and then fails every request (contract 3.6), and a
missing asset fails the load, so both are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, NotFound
from tfs_deploy.savedmodel.files import is_directory
from tfs_deploy.serving.codec import messages

SERVE_TAGS = frozenset({"serve"})
_VARIABLE_OPS = frozenset({"Variable", "VariableV2", "VarHandleOp"})
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
_REMEDY = "Export it again, or copy it again as a whole."


@dataclass(frozen=True, slots=True)
class SavedModelFacts:
    """Properties of the meta graph with the tag ``serve``."""

    tensorflow_version: str
    signature_names: tuple[str, ...]
    has_variables: bool


def check_saved_model(directory: Path) -> SavedModelFacts:
    """Return the facts of `directory`; raise NotFound without a SavedModel, CorruptModel where something is missing."""
    if not is_directory(directory):
        raise NotFound(f"There is no directory {str(directory)!r}.", "Give the directory of an exported SavedModel.")
    graph = _serving_graph(directory)
    has_variables = any(node.op in _VARIABLE_OPS for node in _nodes(graph.graph_def))
    if has_variables:
        _check_variables(directory)
    for asset in graph.asset_file_def:
        if not (directory / "assets" / asset.filename).is_file():
            raise CorruptModel(f"The asset {asset.filename!r} of {str(directory)!r} is missing.", _REMEDY)
    names = tuple(sorted(name for name in graph.signature_def if not name.startswith("__")))
    return SavedModelFacts(str(graph.meta_info_def.tensorflow_version), names, has_variables)


def _serving_graph(directory: Path) -> Any:
    path = directory / "saved_model.pb"
    if not path.is_file():
        raise NotFound(f"{str(directory)!r} holds no saved_model.pb.", "Name the directory of a SavedModel.")
    try:
        model = messages.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise CorruptModel(f"{str(path)!r} is not a SavedModel: it cannot be parsed.", _REMEDY) from error
    tags = [sorted(graph.meta_info_def.tags) for graph in model.meta_graphs]
    for graph in model.meta_graphs:
        # TF Serving wants the very set of tags, not a superset (contract 3.6).
        if set(graph.meta_info_def.tags) == SERVE_TAGS:
            return graph
    raise CorruptModel(f"{str(path)!r} has no graph tagged 'serve', only {tags}.", "Save it with the tag 'serve'.")


def _nodes(graph_def: Any) -> Iterator[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _check_variables(directory: Path) -> None:
    folder = directory / "variables"
    if not (folder / "variables.index").is_file():
        raise CorruptModel(
            f"The graph of {str(directory)!r} has variables, but variables/variables.index is missing.", _REMEDY
        )
    shards = [match for entry in folder.iterdir() if (match := _SHARD.fullmatch(entry.name))]
    present = {int(match.group(1)) for match in shards}
    wanted = max((int(match.group(2)) for match in shards), default=1)
    for number in range(wanted):
        if number not in present:
            raise CorruptModel(
                f"Shard {number} of {wanted} of the variables of {str(directory)!r} is missing.", _REMEDY
            )
