"""What --enable_batching and the flags beside it make of each session (contract 1, 10)."""

from __future__ import annotations

from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.modelserver.batching.parameters import BatchingParameters, of_version, read_file
from tfs_deploy.modelserver.batching.session import BatchingSession, BatchScheduler
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.graph.servable import Session
from tfs_deploy.modelserver.loading.loader import SessionWrapper


def batching(flags: Flags, clock: Clock) -> SessionWrapper:
    """Return what wraps each session; raise StatusError for a parameters file that cannot be read.

    A version's own parameters replace the common ones, but for the number of threads, which all versions share; a
    version without them is not batched where each is to have its own.
    """
    if not flags.switch("enable_batching"):
        return lambda session, directory: session
    path = flags.text("batching_parameters_file")
    common = read_file(path) if path else BatchingParameters()
    scheduler = BatchScheduler(common.threads, clock.monotonic)
    per_model = flags.switch("enable_per_model_batching_parameters")

    def wrap(session: Session, directory: Path) -> Session:
        parameters = of_version(directory) if per_model else common
        return session if parameters is None else BatchingSession(session, parameters, scheduler)

    return wrap
