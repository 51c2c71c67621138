"""The one table from our errors to what Airflow does with a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException

from tfs_deploy.errors import Permanent


@contextmanager
def translate_errors() -> Iterator[None]:
    """Let a Permanent error fail the task at once; a Transient one passes, and Airflow tries again by `retries`."""
    try:
        yield
    except Permanent as error:
        raise AirflowFailException(str(error)) from error
