"""The command that runs the gateway, as a process of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from tfs_deploy.cli.invocation import Invocation, command
from tfs_deploy.errors import MissingExtra

_NEEDED = {"tornado": "tornado", "PIL": "pillow", "jinja2": "jinja2", "prometheus_client": "prometheus-client"}


@command(somewhere=False)
def gateway(
    call: Invocation,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The gateway's YAML file.")],
    check: Annotated[bool, typer.Option("--check", help="Read and check the file, and end.")] = False,
) -> None:
    """Serve models over HTTP: JSON and uploads in, JSON out; ends gracefully on SIGTERM."""
    from tfs_deploy.cli.embedded import exec_module

    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(package, "gateway")
    options = [*(["--check"] if check else []), *(["--debug"] if call.debug else [])]
    exec_module("tfs_deploy.gateway", ["--config", str(config), *options])
