"""Time numpy -> PredictRequest bytes and PredictResponse bytes -> numpy, against TensorFlow and against memcpy.

Run: python benchmarks/tensor_codec.py [--json] [--images N]. Needs the `tensorflow` extra and
tensorflow-serving-api. Aim: each direction takes at most a third of TensorFlow's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.codec.predict import decode_predict_response, encode_predict_request

AIM = 1 / 3


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Return the median time of `run` after one warm-up."""
    run()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(images: int, rounds: int) -> dict[str, float]:
    """Return seconds by name for a float32 batch of 224x224x3 images."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    batch = np.random.default_rng(0).random((images, 224, 224, 3), dtype=np.float32)
    spec = messages.ModelSpec(name="m", signature_name="serving_default")

    def encode_tensorflow() -> bytes:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.model_spec.signature_name = "serving_default"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(batch))
        return request.SerializeToString()

    def encode() -> bytes:
        return encode_predict_request(spec, {"x": batch})

    assert encode() == encode_tensorflow()
    content = messages.PredictResponse()
    content.outputs["y"].CopyFrom(tensors.to_proto(batch))
    content_bytes = content.SerializeToString()
    listed = messages.PredictResponse()
    listed.outputs["y"].CopyFrom(tensors.tensor_head(batch))
    listed.outputs["y"].float_val.extend(batch.reshape(-1))
    listed_bytes = listed.SerializeToString()
    del content, listed

    def decode_tensorflow(data: bytes) -> np.ndarray:
        return tf.make_ndarray(predict_pb2.PredictResponse.FromString(data).outputs["y"])

    def decode(data: bytes) -> np.ndarray:
        return decode_predict_response(data)[1]["y"]

    for data in (content_bytes, listed_bytes):
        np.testing.assert_array_equal(decode(data), batch)
    return {
        "memcpy": seconds(batch.copy, rounds),
        "encode": seconds(encode, rounds),
        "encode_tensorflow": seconds(encode_tensorflow, rounds),
        "decode_content": seconds(lambda: decode(content_bytes), rounds),
        "decode_content_and_copy": seconds(lambda: decode(content_bytes).copy(), rounds),
        "decode_content_tensorflow": seconds(lambda: decode_tensorflow(content_bytes), rounds),
        "decode_float_val": seconds(lambda: decode(listed_bytes), rounds),
        "decode_float_val_and_copy": seconds(lambda: decode(listed_bytes).copy(), rounds),
        "decode_float_val_tensorflow": seconds(lambda: decode_tensorflow(listed_bytes), max(1, rounds // 5)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--images", type=int, default=256, help="images in the batch (256 = 154 MB)")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    times = measure(args.images, args.rounds)
    rows = []
    for name in (
        "encode",
        "decode_content",
        "decode_content_and_copy",
        "decode_float_val",
        "decode_float_val_and_copy",
    ):
        peer = times[name.removesuffix("_and_copy") + "_tensorflow"]
        rows.append(
            {
                "what": name,
                "seconds": times[name],
                "tensorflow_seconds": peer,
                "ratio": times[name] / peer,
                "memcpys": times[name] / times["memcpy"],
                "within_aim": times[name] <= peer * AIM,
            }
        )
    if args.json:
        print(json.dumps({"images": args.images, "memcpy_seconds": times["memcpy"], "rows": rows}))
        return
    print(f"{args.images} x 224 x 224 x 3 float32, {args.images * 224 * 224 * 12 / 1e6:.0f} MB, ", end="")
    print(f"one memcpy {times['memcpy'] * 1e3:.1f} ms")
    print(f"{'':28}{'ours':>10}{'TensorFlow':>12}{'ratio':>8}{'memcpys':>9}")
    for row in rows:
        print(
            f"{row['what']:28}{row['seconds'] * 1e3:8.2f}ms{row['tensorflow_seconds'] * 1e3:10.1f}ms"
            f"{row['ratio']:8.3f}{row['memcpys']:9.2f}"
        )


if __name__ == "__main__":
    main()
