"""``python -m tfs_deploy.cli``: the command line without the console script."""

from __future__ import annotations

from tfs_deploy.cli.main import run

if __name__ == "__main__":
    run()
