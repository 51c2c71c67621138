"""Time and memory of starting a client process, against ``from tensorflow_serving.apis import predict_pb2``.

Run: python benchmarks/client_start.py [--json] [--runs N]. Each run is a fresh process that imports, builds one
PredictRequest and reports its own clock and peak memory. Needs
tensorflow-serving-api. Aim: at most a tenth of the time and a fifth of the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

TIME_AIM, MEMORY_AIM = 1 / 10, 1 / 5

_PROGRAM = """
import json, resource, sys, time
begin = time.perf_counter()
{body}
assert len(request) > 4
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak / 1024 if sys.platform != "darwin" else peak / 2**20]))
"""
BODIES = {
    "interpreter": "request = b'nothing'",
    "tfs_deploy": """
import numpy as np
from tfs_deploy.serving import client
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.codec.predict import encode_predict_request
request = encode_predict_request(messages.ModelSpec(name="m"), {"x": np.zeros(3, np.float32)})
""",
    "tensorflow_serving": """
import numpy as np
from tensorflow_serving.apis import predict_pb2
message = predict_pb2.PredictRequest()
message.model_spec.name = "m"
message.inputs["x"].dtype = 1
message.inputs["x"].tensor_shape.dim.add(size=3)
message.inputs["x"].tensor_content = np.zeros(3, np.float32).tobytes()
request = message.SerializeToString()
""",
}


def measure(body: str, runs: int) -> tuple[float, float]:
    """Return the median seconds and peak MiB of `runs` fresh processes, after one that warms the disk cache."""
    program = _PROGRAM.format(body=body)
    samples = []
    for _ in range(runs + 1):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        samples.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, memory = zip(*samples[1:], strict=True)
    return statistics.median(seconds), statistics.median(memory)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    found = {name: measure(body, args.runs) for name, body in BODIES.items()}
    ours, theirs = found["tfs_deploy"], found["tensorflow_serving"]
    ratios = {"time": ours[0] / theirs[0], "memory": ours[1] / theirs[1]}
    within = {"time": ratios["time"] <= TIME_AIM, "memory": ratios["memory"] <= MEMORY_AIM}
    if args.json:
        sides = {name: {"seconds": seconds, "peak_mib": memory} for name, (seconds, memory) in found.items()}
        print(json.dumps({**sides, "ratios": ratios, "within_aim": within}))
        return
    print(f"{'':20}{'seconds':>10}{'peak MiB':>10}")
    for name, (seconds, memory) in found.items():
        print(f"{name:20}{seconds:10.3f}{memory:10.1f}")
    print(f"{'ratio':20}{ratios['time']:10.3f}{ratios['memory']:10.3f}")


if __name__ == "__main__":
    main()
