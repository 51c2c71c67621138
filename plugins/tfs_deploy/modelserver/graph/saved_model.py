"""Reads a SavedModel directory as TF Serving's C++ loader does, with its error texts (contract 3.6, 20.7, 20.11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, not_found, of_os_error
from tfs_deploy.serving.codec import messages

INIT_OP_KEY = "__saved_model_init_op"
_ASSETS_KEY = "saved_model_assets"
# In the order in which they are looked for: TensorFlow 1's main op, then what was there before it.
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


@dataclass(frozen=True, slots=True)
class Initialization:
    """What runs once before the first request: names of graph elements, and files that feed them."""

    restore_operation: str
    filename_tensor: str
    init_operation: str
    assets: tuple[tuple[str, str], ...]


def read_meta_graph(directory: Path, tags: Sequence[str]) -> Any:
    """Return the MetaGraphDef whose tag set is exactly `tags`."""
    saved_model = _read(directory)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def initialization(directory: Path, meta_graph: Any) -> Initialization:
    """Return how the graph is initialized: restore op, init op, asset files."""
    saver = meta_graph.saver_def
    return Initialization(
        restore_operation=saver.restore_op_name,
        filename_tensor=_tensor_name(saver.filename_tensor_name),
        init_operation=_init_operation(directory, meta_graph),
        assets=tuple(
            (_tensor_name(asset.tensor_info.name), str(directory / "assets" / asset.filename))
            for asset in _asset_files(meta_graph)
        ),
    )


def _read(directory: Path) -> Any:
    binary, text = directory / "saved_model.pb", directory / "saved_model.pbtxt"
    try:
        if binary.exists():
            # TensorFlow reads a directory of that name as an empty file.
            return messages.SavedModel.FromString(b"" if binary.is_dir() else binary.read_bytes())
        if text.exists():
            return text_format.Parse(
                text.read_text(), messages.SavedModel(), descriptor_pool=messages.descriptor_pool_()
            )
    except OSError as error:
        raise of_os_error(error) from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        # What TensorFlow's reader says of bytes that are no SavedModel, binary or text (observed).
        raise StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested") from error
    if (directory / "export.meta").exists():
        raise StatusError(Code.UNIMPLEMENTED, "Session Bundle is deprecated and removed.")
    raise not_found(
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {directory}"
    )


def _init_operation(directory: Path, meta_graph: Any) -> str:
    """Return the name of the init op, or an empty string."""
    if INIT_OP_KEY in meta_graph.signature_def:
        return str(meta_graph.signature_def[INIT_OP_KEY].outputs[INIT_OP_KEY].name)
    for key in _INIT_COLLECTIONS:
        if key in meta_graph.collection_def:
            names = meta_graph.collection_def[key].node_list.value
            if len(names) != 1:
                raise failed_precondition(f"Expected exactly one main op in : {directory}")
            return str(names[0])
    return ""


def _asset_files(meta_graph: Any) -> list[Any]:
    if meta_graph.asset_file_def:
        return list(meta_graph.asset_file_def)
    kind = messages.message_class("tensorflow.AssetFileDef")
    packed = meta_graph.collection_def[_ASSETS_KEY].any_list.value if _ASSETS_KEY in meta_graph.collection_def else ()
    return [kind.FromString(item.value) for item in packed]


def _tensor_name(name: str) -> str:
    return name if not name or ":" in name else f"{name}:0"
