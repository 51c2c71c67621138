"""Run the gateway: ``python -m tfs_deploy.gateway --config gateway.yaml``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Read by gRPC when it is imported. Nothing forks here: the processes for processors are spawned.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from tfs_deploy.gateway.main import main

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A store or a disk that hangs in a thread must not hold up the end.
    os._exit(code)
