"""The message classes: all are made at once, because two threads that make one at the same time can end the process."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from google.protobuf.message import Message
from tfs_deploy.serving.codec import messages

pool = messages.private_pool()
made = len(Message.__subclasses__())
saved = messages.SavedModel()
graph = saved.meta_graphs.add()
graph.graph_def.node.add(name="a").attr["value"].tensor.float_val.append(1.0)
graph.signature_def["s"].inputs["x"].tensor_shape.dim.add(size=1)
graph.collection_def["c"].node_list.value.append("a")
read = messages.SavedModel.FromString(saved.SerializeToString())
assert read.meta_graphs[0].graph_def.node[0].attr["value"].tensor.float_val[0] == 1.0
assert read.meta_graphs[0].signature_def["s"].inputs["x"].tensor_shape.dim[0].size == 1
config = messages.ReloadConfigRequest()
config.config.model_config_list.config.add(name="m").model_version_policy.specific.versions.append(1)
assert made > 100
assert len(Message.__subclasses__()) == made, "a class was made late"
"""


def test_no_class_is_made_after_the_pool() -> None:
    # In a process of its own, because others may have made the classes already.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
