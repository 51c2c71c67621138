"""BatchingParameters in TF Serving's text form, of all models or of one version (contract 10)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfs_deploy.modelserver import text_config
from tfs_deploy.modelserver.status import invalid_argument

PER_MODEL_FILE = "batching_params.pbtxt"

# `BatchingParameters` of `SV/session_bundle_config.proto`.
_SCHEMA = {
    "BatchingParameters": {
        "max_batch_size": ".google.protobuf.Int64Value",
        "batch_timeout_micros": ".google.protobuf.Int64Value",
        "max_enqueued_batches": ".google.protobuf.Int64Value",
        "num_batch_threads": ".google.protobuf.Int64Value",
        "thread_pool_name": ".google.protobuf.StringValue",
        "enable_large_batch_splitting": ".google.protobuf.BoolValue",
        "max_execution_batch_size": ".google.protobuf.Int64Value",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
    }
}


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """Limits of the batches; the defaults are those of TensorFlow's SharedBatchScheduler.

    `max_batch_size`: most rows of one request, and of one run unless `enable_large_batch_splitting` sets that by
    `max_execution_batch_size`. `batch_timeout`: seconds for which an open batch waits for more requests.
    `max_enqueued_batches`: most batches in the queue, including the open one.
    """

    max_batch_size: int = 1000
    batch_timeout: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def rows_per_run(self) -> int:
        """Return the most rows of one run."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def check(self) -> None:
        """Raise INVALID_ARGUMENT for values with which TF Serving fails the load of a batched version."""
        allowed = self.allowed_batch_sizes
        if allowed and allowed[-1] != self.max_batch_size:
            raise invalid_argument(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{allowed[-1]}; expected {self.max_batch_size}"
            )
        if self.max_batch_size <= 0:
            raise invalid_argument(f"input_batch_size_limit must be positive; was {self.max_batch_size}")
        if self.batch_timeout < 0:
            micros = round(self.batch_timeout * 1e6)
            raise invalid_argument(f"batch_timeout_micros must be non-negative; was {micros}")
        if self.enable_large_batch_splitting and self.max_enqueued_batches <= 0:
            raise invalid_argument(f"max_enqueued_batches must be positive; was {self.max_enqueued_batches}")
        if self.rows_per_run > self.max_batch_size:
            raise invalid_argument(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                "max_execution_batch_size."
            )

    def rounded(self, rows: int) -> int:
        """Return the lowest allowed batch size that holds `rows`."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    @property
    def threads(self) -> int:
        """Return how many batches may run at once; raise INVALID_ARGUMENT for a number below one."""
        if self.num_batch_threads < 0:
            raise invalid_argument(f"num_batch_threads must be positive; was {self.num_batch_threads}")
        return self.num_batch_threads or os.cpu_count() or 1


def read_file(path: str | Path) -> BatchingParameters:
    """Return the parameters in a text file; raise NOT_FOUND without it, INVALID_ARGUMENT for another text."""
    return _of_message(text_config.read_text_proto(path, text_config.new_message(_SCHEMA)))


def read_version_parameters(directory: Path) -> BatchingParameters | None:
    """Return a version's own parameters; None without the file."""
    path = directory / PER_MODEL_FILE
    return read_file(path) if path.exists() else None


def _of_message(message: Any) -> BatchingParameters:
    # -1 for an explicit 0, which TensorFlow refuses, where 0 here means "one per CPU".
    threads = message.num_batch_threads.value or -1 if message.HasField("num_batch_threads") else 0
    given: dict[str, int] = {}
    for name in ("max_batch_size", "max_enqueued_batches", "max_execution_batch_size"):
        if message.HasField(name):
            given[name] = getattr(message, name).value
    return BatchingParameters(
        batch_timeout=message.batch_timeout_micros.value / 1e6,
        num_batch_threads=threads,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        enable_large_batch_splitting=message.enable_large_batch_splitting.value,
        **given,
    )
