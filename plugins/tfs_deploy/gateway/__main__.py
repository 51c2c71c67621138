"""Run the gateway: ``python -m tfs_deploy.gateway --config gateway.yaml``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # gRPC reads this at its import. Processes of the pool are spawned, not forked.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from tfs_deploy.gateway.main import main

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that hangs in a store or a disk must not delay the exit.
    os._exit(code)
