"""Write the placeholder version of `tfs_deploy.savedmodel.placeholder`: a graph of four nodes, without TensorFlow.

Run after a change of this file: ``python tests/savedmodel/generate_placeholder.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tfs_deploy.savedmodel
from tfs_deploy.savedmodel.placeholder import MESSAGE
from tfs_deploy.serving.codec import messages

OUTPUT = Path(tfs_deploy.savedmodel.__file__).parent / "placeholder.binpb"
# TensorFlow refuses requests that lack an input with a text that quotes its alias, so the alias says it all.
ALIAS = MESSAGE.replace(" ", "_")
# The GraphDef version of TensorFlow 1.15, which every TensorFlow 2 reads (`tensorflow/core/public/version.h`).
_PRODUCER = 134
# `tensorflow/core/framework/types.proto`
_FLOAT, _STRING, _BOOL = 1, 7, 10


def build() -> Any:
    """Return the SavedModel: any float tensor goes in, and every run fails in an Assert."""
    saved = messages.SavedModel(saved_model_schema_version=1)
    meta_graph = saved.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = _PRODUCER
    fed = graph.node.add(name=ALIAS, op="Placeholder")
    fed.attr["dtype"].type = _FLOAT
    fed.attr["shape"].shape.unknown_rank = True
    never = graph.node.add(name="never", op="Const")
    never.attr["dtype"].type = _BOOL
    _scalar(never.attr["value"].tensor, _BOOL).bool_val.append(False)
    text = graph.node.add(name="message", op="Const")
    text.attr["dtype"].type = _STRING
    _scalar(text.attr["value"].tensor, _STRING).string_val.append(MESSAGE.encode())
    fail = graph.node.add(name="fail", op="Assert", input=["never", "message"])
    fail.attr["T"].list.type.append(_STRING)
    fail.attr["summarize"].i = 3
    answer = graph.node.add(name="answer", op="Identity", input=[ALIAS, "^fail"])
    answer.attr["T"].type = _FLOAT
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for side, alias, tensor in ((signature.inputs, ALIAS, ALIAS), (signature.outputs, "answer", "answer")):
        side[alias].name = f"{tensor}:0"
        side[alias].dtype = _FLOAT
        side[alias].tensor_shape.unknown_rank = True
    return saved


def _scalar(tensor: Any, dtype: int) -> Any:
    tensor.dtype = dtype
    tensor.tensor_shape.SetInParent()
    return tensor


if __name__ == "__main__":
    OUTPUT.write_bytes(build().SerializeToString(deterministic=True))
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
