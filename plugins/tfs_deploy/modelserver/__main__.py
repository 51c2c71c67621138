"""Run the embedded model server: ``python -m tfs_deploy.modelserver --port=8500 --model_base_path=/models/m``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # gRPC reads it at its import. Its fork support pauses its threads at each fork; our forks do not use gRPC.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from tfs_deploy.modelserver.main import main

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A request, a load or a reload may hang forever, as in TF Serving; a normal exit would wait for its thread.
    os._exit(code)
