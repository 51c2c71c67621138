"""A session on a SavedModel, opened in the steps of TensorFlow's C++ loader, which TF Serving uses.

Runs in the exporting process. ``tf.compat.v1.saved_model.load`` will not do: it skips the restore when the graph's
collections name no variables, as in every TensorFlow 2 export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfs_deploy.errors import ExportFailed
from tfs_deploy.savedmodel.export.interface import reason

_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


def open_model(session: Any, directory: Path) -> Any:
    """Import the serving graph into the default graph, restore it, run its initialiser; return its MetaGraphDef."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved_model = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        meta_graph = next(one for one in saved_model.meta_graphs if set(one.meta_info_def.tags) == {"serve"})
        tf.compat.v1.train.import_meta_graph(meta_graph, clear_devices=True)
        _restore(session, meta_graph, directory)
    except Exception as error:
        raise ExportFailed(
            f"TensorFlow cannot load the SavedModel: {reason(error)}.", "See that its files are whole."
        ) from error
    return meta_graph


def _restore(session: Any, meta_graph: Any, directory: Path) -> None:
    assets = {asset.tensor_info.name: str(directory / "assets" / asset.filename) for asset in meta_graph.asset_file_def}
    saver = meta_graph.saver_def
    if saver.restore_op_name and (directory / "variables" / "variables.index").is_file():
        prefix = str(directory / "variables" / "variables")
        session.run(saver.restore_op_name, {**assets, saver.filename_tensor_name: prefix})
    initialiser = _initialiser(meta_graph)
    if initialiser:
        session.run(session.graph.get_operation_by_name(initialiser), assets)


def _initialiser(meta_graph: Any) -> str:
    if _INIT_SIGNATURE in meta_graph.signature_def:
        outputs = meta_graph.signature_def[_INIT_SIGNATURE].outputs
        return next((str(info.name).split(":")[0] for info in outputs.values()), "")
    for collection in _INIT_COLLECTIONS:
        if collection in meta_graph.collection_def:
            names = meta_graph.collection_def[collection].node_list.value
            return str(names[0]).split(":")[0] if names else ""
    return ""
