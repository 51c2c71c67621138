"""What is exported and how: the checkpoint, and the wishes about signature, inputs, outputs and requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tfs_deploy.errors import InvalidInput, NotFound

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_STATE_FILE = "checkpoint"
_STATE_LINE = re.compile(r'^model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
_KINDS = (
    "Name a .keras file, a .weights.h5 file, a checkpoint prefix (PREFIX.index), a directory with a 'checkpoint' "
    "state file, or a SavedModel directory."
)


class SourceKind(str, Enum):
    """The kinds of checkpoints that can be exported."""

    KERAS = "keras"
    KERAS_WEIGHTS = "keras_weights"
    TF_CHECKPOINT = "tf_checkpoint"
    TF1_GRAPH = "tf1_graph"
    SAVED_MODEL = "saved_model"


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint on a disk that the exporting process can read.

    ``path`` is a file (keras, keras_weights), a checkpoint prefix (tf_checkpoint, tf1_graph) or a directory
    (saved_model). ``builder`` is ``module:function``; see `tfs_deploy.savedmodel.export.exporter` for what it returns.
    ``moving_average_decay`` (tf1_graph) restores the moving averages of the variables in their place.
    """

    kind: SourceKind
    path: str
    builder: str = ""
    moving_average_decay: float | None = None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a checkpoint becomes a SavedModel.

    ``signature``      name of the signature; with ``also_default`` it is written as ``serving_default`` as well.
    ``inputs``         names for the model's inputs, in their order; empty keeps the model's own names.
    ``outputs``        names for the model's outputs, in their order; empty keeps the model's own names.
    ``postprocess``    ``module:function`` from a dict of output tensors to a dict of output tensors, compiled in.
    ``input_tensors``  tf1_graph from a ``.meta`` file: input name to graph tensor name, e.g. ``x:0``.
    ``output_tensors`` tf1_graph from a ``.meta`` file: output name to graph tensor name.
    ``samples``        ``.npz`` with one array per input, one row per sample; empty means made-up inputs.
    ``warmup``         how many one-row warm-up requests are written (0 to 1000).
    ``golden``         how many golden requests are recorded, with 1, 2, 3, ... rows; they need ``samples``.
    ``search_path``    directories that are added to the exporting process's ``sys.path``, for the builder.
    ``provenance``     what the manifest records about the origin, e.g. DAG run or code revision.
    ``model``          the model name inside warm-up and golden requests; TF Serving does not look at it, and a
                       constant keeps the fingerprint free of it.
    """

    signature: str = "serving_default"
    also_default: bool = True
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    postprocess: str = ""
    input_tensors: dict[str, str] = field(default_factory=dict)
    output_tensors: dict[str, str] = field(default_factory=dict)
    samples: str = ""
    warmup: int = 1
    golden: int = 0
    search_path: tuple[str, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    model: str = "model"


def detect(path: str | Path, builder: str = "") -> CheckpointSource:
    """Return the source that `path` looks like; raise NotFound or InvalidInput when it looks like none."""
    given = Path(path)
    if given.is_dir():
        return _detect_directory(given, builder)
    if given.name.endswith(".keras"):
        return CheckpointSource(SourceKind.KERAS, _existing(given), builder)
    if given.name.endswith((".weights.h5", ".h5")):
        return _with_builder(SourceKind.KERAS_WEIGHTS, _existing(given), builder)
    return _detect_prefix(given, builder)


def check_source(source: CheckpointSource) -> None:
    """Raise InvalidInput or NotFound for a source that cannot be exported, before anything is started."""
    path = Path(source.path)
    if source.builder:
        check_reference(source.builder, "builder")
    if source.kind in {SourceKind.KERAS_WEIGHTS, SourceKind.TF_CHECKPOINT} and not source.builder:
        raise _no_builder(source.kind, source.path)
    decay = source.moving_average_decay
    if decay is not None and (source.kind is not SourceKind.TF1_GRAPH or not 0.0 < decay < 1.0):
        raise InvalidInput(
            f"The moving average decay {decay!r} is not usable for a {source.kind.value} checkpoint.",
            "Give a number between 0 and 1, and only for tf1_graph.",
        )
    if source.kind in {SourceKind.KERAS, SourceKind.KERAS_WEIGHTS}:
        _existing(path)
    elif source.kind is SourceKind.SAVED_MODEL and not path.is_dir():
        raise NotFound(f"There is no directory {source.path!r}.", _KINDS)
    elif source.kind in {SourceKind.TF_CHECKPOINT, SourceKind.TF1_GRAPH}:
        _existing(Path(source.path + ".index"))


def check_options(options: ExportOptions, kind: SourceKind) -> None:
    """Raise InvalidInput for options that contradict each other or the `kind`."""
    if options.postprocess:
        check_reference(options.postprocess, "post-processing function")
    if not options.signature or options.signature.startswith("__"):
        raise InvalidInput(f"The signature name {options.signature!r} is not usable.", "Use serving_default.")
    for what, names in (("input", options.inputs), ("output", options.outputs)):
        if len(set(names)) != len(names) or not all(names):
            raise InvalidInput(f"The {what} names {list(names)} are not distinct and non-empty.", "Give each one name.")
    if not 0 <= options.warmup <= 1000:
        raise InvalidInput(f"{options.warmup} warm-up requests are not possible.", "Ask for 0 to 1000.")
    if options.golden < 0 or (options.golden and not options.samples):
        raise InvalidInput(
            f"{options.golden} golden requests cannot be recorded without samples.", "Name an .npz file of samples."
        )
    if kind is SourceKind.SAVED_MODEL and (options.postprocess or options.inputs or options.outputs):
        raise InvalidInput(
            "A SavedModel is taken as it is: names and post-processing cannot be changed.",
            "Leave inputs, outputs and postprocess out, or export from the checkpoint.",
        )


def check_reference(reference: str, what: str) -> None:
    """Raise InvalidInput unless `reference` reads ``module:function``."""
    if not _REFERENCE.fullmatch(reference):
        raise InvalidInput(
            f"The {what} {reference!r} is not of the form module:function.", "Write package.module:name."
        )


def _detect_directory(directory: Path, builder: str) -> CheckpointSource:
    if (directory / "saved_model.pb").is_file():
        return CheckpointSource(SourceKind.SAVED_MODEL, str(directory), builder)
    state = directory / _STATE_FILE
    if not state.is_file():
        raise InvalidInput(f"The directory {str(directory)!r} holds neither saved_model.pb nor a checkpoint.", _KINDS)
    # The state file is written by tf.train.CheckpointManager and Saver; its first line names the latest prefix.
    match = _STATE_LINE.search(state.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        raise InvalidInput(f"The state file {str(state)!r} names no checkpoint.", _KINDS)
    prefix = Path(re.sub(r"\\(.)", r"\1", match.group(1)))
    # A relative prefix is relative to the state file; an absolute one may be from the machine that trained.
    moved = prefix.is_absolute() and not _has_index(prefix)
    return _detect_prefix(directory / (prefix.name if moved else prefix), builder)


def _detect_prefix(path: Path, builder: str) -> CheckpointSource:
    text = str(path)
    for suffix in (".index", ".meta"):
        text = text.removesuffix(suffix)
    if not _has_index(Path(text)):
        raise InvalidInput(f"{str(path)!r} is not a checkpoint that can be exported.", _KINDS)
    if Path(text + ".meta").is_file():
        return CheckpointSource(SourceKind.TF1_GRAPH, text, builder)
    return _with_builder(SourceKind.TF_CHECKPOINT, text, builder)


def _has_index(prefix: Path) -> bool:
    return Path(f"{prefix}.index").is_file()


def _with_builder(kind: SourceKind, path: str, builder: str) -> CheckpointSource:
    if not builder:
        raise _no_builder(kind, path)
    return CheckpointSource(kind, path, builder)


def _no_builder(kind: SourceKind, path: str) -> InvalidInput:
    return InvalidInput(
        f"{path!r} holds weights only ({kind.value}), so the model must be built first.",
        "Name the function that builds it: module:function.",
    )


def _existing(path: Path) -> str:
    if not path.is_file():
        raise NotFound(f"There is no file {str(path)!r}.", _KINDS)
    return str(path)
