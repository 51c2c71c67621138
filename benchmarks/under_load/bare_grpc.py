"""What any Python gRPC server pays: every Predict is answered at once with the same bytes, nothing is run.

    python bare_grpc.py ROWS

Prints its address, and ends when its standard input ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# As many as the embedded server has by default.
_THREADS = 16


@contextlib.contextmanager
def bare_server(rows: int) -> Iterator[str]:
    """Run this file as a child process; yield its address."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(rows)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


def main(rows: int) -> None:
    """Serve until standard input ends."""
    import grpc
    import numpy as np

    from tfs_deploy.modelserver.inference.predict import encode_predict_response

    outputs = {"digit": np.zeros(rows, np.int64), "probabilities": np.zeros((rows, 10), np.float32)}
    reply = encode_predict_response(b"", outputs, as_content=False)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: reply)
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main(int(sys.argv[1]))
