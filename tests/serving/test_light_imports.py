"""Talking to a model server needs neither TensorFlow nor tensorflow-serving-api nor Airflow."""

from __future__ import annotations

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
import numpy as np
from tfs_deploy.serving import client, config, signature
from tfs_deploy.serving.codec import messages, predict, tensors
predict.encode_predict_request(messages.ModelSpec(name="m"), {"x": np.zeros(2, np.float32)})
tensors.to_array(tensors.to_proto([1.0]))
client.connect("127.0.0.1:1").close()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_client_process_holds_no_heavy_package() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"grpc", "numpy", "tfs_deploy"} <= loaded
    assert not loaded & {"tensorflow", "tensorflow_serving", "keras", "airflow", "rich", "typer", "boto3", "docker"}
