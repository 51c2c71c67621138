"""Step export: a checkpoint becomes a SavedModel directory, in a process of its own that has TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.sdk import BaseOperator

from tfs_deploy.clock import SystemClock
from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import seconds_of, translate_errors
from tfs_deploy.savedmodel.source import CheckpointSource, ExportOptions, SourceKind, detect

if TYPE_CHECKING:
    from airflow.sdk import Context

_AUTO = "auto"
# What a template can only render as text.
_LISTS = ("inputs", "outputs", "search_path")


class ExportSavedModelOperator(BaseOperator):
    """Export a checkpoint; on failure no output directory is left, and the very same output again is no error.

    :param checkpoint: a .keras or .h5 file, a checkpoint prefix, a directory with a ``checkpoint`` file, a frozen .pb
        graph, or a SavedModel directory.
    :param out: the directory to write; it must not exist, or hold the same model.
    :param kind: ``auto``, or a value of `SourceKind` where the path does not show the kind.
    :param builder: ``module:function`` that builds the model, for checkpoints that hold weights only.
    :param moving_average_decay: restore the moving averages of a TensorFlow 1 checkpoint.
    :param options: the fields of `ExportOptions` as a dict: signature, inputs, outputs, postprocess, samples, ...;
        what is a list there may be text with commas here.
    :param python: an interpreter that has TensorFlow; empty: Airflow's own.
    :param wait_seconds: how long the export may take.

    Returns ``{path, fingerprint, signatures, tensorflow_version, bytes}``.
    """

    template_fields = (
        "checkpoint",
        "out",
        "kind",
        "builder",
        "moving_average_decay",
        "options",
        "python",
        "wait_seconds",
    )
    ui_color = "#e3f2fd"

    def __init__(
        self,
        *,
        checkpoint: str,
        out: str,
        kind: str = _AUTO,
        builder: str = "",
        moving_average_decay: float | str | None = None,
        options: Mapping[str, Any] | None = None,
        python: str = "",
        wait_seconds: float | str = 900.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.checkpoint = checkpoint
        self.out = out
        self.kind = kind
        self.builder = builder
        self.moving_average_decay = moving_average_decay
        self.options = options
        self.python = python
        self.wait_seconds = wait_seconds

    def execute(self, context: Context) -> dict[str, Any]:
        """Export, and return the path and the signatures of the model."""
        from tfs_deploy.savedmodel.export.exporter import export

        with translate_errors():
            if not self.out:
                raise InvalidInput("The export has no output directory.", "Set out.")
            staged = export(
                self._source(),
                Path(self.out),
                _options(self.options or {}, _provenance(context)),
                python=self.python or None,
                clock=SystemClock(),
                timeout=seconds_of(self.wait_seconds, "wait_seconds"),
            )
        manifest = staged.manifest
        return {
            "path": staged.path,
            "fingerprint": manifest.fingerprint,
            "signatures": to_builtins(manifest.signatures),
            "tensorflow_version": manifest.tensorflow_version,
            "bytes": manifest.total_bytes,
        }

    def _source(self) -> CheckpointSource:
        decay = self.moving_average_decay
        given = {
            "kind": self.kind,
            "path": self.checkpoint,
            "builder": self.builder,
            "moving_average_decay": None if decay in (None, "", "None") else decay,
        }
        if self.kind in ("", _AUTO):
            source = detect(self.checkpoint, self.builder)
            given |= {"kind": source.kind, "path": source.path}
        try:
            return msgspec.convert(given, type=CheckpointSource, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(
                f"The arguments of the checkpoint do not fit: {error}.",
                f"kind is {_AUTO} or one of {', '.join(kind.value for kind in SourceKind)}.",
            ) from error


def _options(given: Mapping[str, Any], provenance: Mapping[str, str]) -> ExportOptions:
    known = [field.name for field in dataclasses.fields(ExportOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidInput(f"The export options {unknown} do not exist.", f"Known options: {', '.join(known)}.")
    try:
        options = msgspec.convert({**given, **_lists(given)}, type=ExportOptions, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The export options do not fit: {error}.", f"Known options: {', '.join(known)}.") from error
    return dataclasses.replace(options, provenance={**provenance, **options.provenance})


def _lists(given: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        name: [part.strip() for part in given[name].split(",") if part.strip()]
        for name in _LISTS
        if isinstance(given.get(name), str)
    }


def _provenance(context: Mapping[str, Any] | Context) -> dict[str, str]:
    run = context.get("dag_run")
    return {} if run is None else {"dag": str(run.dag_id), "run": str(run.run_id)}
