"""The source and the options of an export: kind and path of a checkpoint; signature, names and requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tfs_deploy.errors import InvalidInput

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_STATE_FILE = "checkpoint"
_STATE_LINE = re.compile(r'^model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
HDF5_SUFFIXES = (".h5", ".hdf5")
_KINDS = (
    "Name a .keras or .h5 file, a checkpoint prefix (PREFIX.index), a directory with a 'checkpoint' state file, "
    "a frozen graph (.pb), or a SavedModel directory."
)


class SourceKind(str, Enum):
    """The kinds of checkpoints that can be exported.

    A whole Keras model is ``keras``, also in an HDF5 file; ``keras_weights`` go into the model of a builder.
    """

    KERAS = "keras"
    KERAS_WEIGHTS = "keras_weights"
    TF_CHECKPOINT = "tf_checkpoint"
    TF1_GRAPH = "tf1_graph"
    FROZEN_GRAPH = "frozen_graph"
    SAVED_MODEL = "saved_model"


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint on a disk that the exporting process can read.

    ``path`` is a file (keras, keras_weights, frozen_graph), a checkpoint prefix (tf_checkpoint, tf1_graph) or a
    directory (saved_model). ``builder`` is ``module:function``; the modules of `tfs_deploy.savedmodel.export` describe
    what it returns for each kind.
    ``moving_average_decay`` (tf1_graph) restores the moving averages of the variables in their place.
    """

    kind: SourceKind
    path: str
    builder: str = ""
    moving_average_decay: float | None = None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The form of the SavedModel.

    ``signature``      name of the signature; with ``also_default`` it is written as ``serving_default`` as well.
    ``inputs``         names for the model's inputs, in their order; empty keeps the model's own names.
    ``outputs``        names for the model's outputs, in their order; empty keeps the model's own names.
    ``postprocess``    ``module:function`` from a dict of output tensors to a dict of output tensors, compiled in.
    ``input_tensors``  graph from a ``.meta`` or a frozen ``.pb`` file: input name to graph tensor name, e.g. ``x:0``.
    ``output_tensors`` graph from a ``.meta`` or a frozen ``.pb`` file: output name to graph tensor name.
    ``samples``        ``.npz`` with one array per input, one row per sample; empty means inputs of zeros.
    ``warmup``         how many one-row warm-up requests are written (0 to 1000).
    ``golden``         how many golden requests are recorded, with 1, 2, 3, ... rows; they require ``samples``.
    ``search_path``    directories that are added to the exporting process's ``sys.path``, for the builder.
    ``provenance``     notes on the origin for the manifest, e.g. DAG run or code revision.
    ``model``          the model name inside warm-up and golden requests; TF Serving ignores it, and a constant
                       keeps the fingerprint independent of it.
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
    """Return the source that the names of the files at `path` indicate; raise InvalidInput where they indicate none.

    An HDF5 file holds weights if there is a builder; without one, the export requires it to hold a whole model.
    """
    given = Path(path)
    if given.is_dir():
        return _detect_directory(given, builder)
    if not given.is_file():
        return _detect_prefix(given, builder)
    if given.name.endswith(".keras"):
        return CheckpointSource(SourceKind.KERAS, str(given), builder)
    if given.name.endswith(".weights.h5"):
        return _with_builder(SourceKind.KERAS_WEIGHTS, str(given), builder)
    if given.name.endswith(HDF5_SUFFIXES):
        kind = SourceKind.KERAS_WEIGHTS if builder else SourceKind.KERAS
        return CheckpointSource(kind, str(given), builder)
    if given.name == "saved_model.pb":
        raise InvalidInput(f"The file {str(given)!r} is a part of a SavedModel.", "Name its directory.")
    if given.name.endswith(".pb"):
        return CheckpointSource(SourceKind.FROZEN_GRAPH, str(given), builder)
    return _detect_prefix(given, builder)


def check_source(source: CheckpointSource) -> None:
    """Raise InvalidInput for a source that cannot be exported, before anything is started."""
    kind, decay = source.kind, source.moving_average_decay
    if source.builder:
        check_reference(source.builder, "builder")
    if kind in {SourceKind.KERAS_WEIGHTS, SourceKind.TF_CHECKPOINT} and not source.builder:
        raise weights_without_builder(source)
    if kind is SourceKind.FROZEN_GRAPH and source.builder:
        raise InvalidInput(
            f"A frozen graph needs no model, so the builder {source.builder!r} is not used.", "Leave the builder out."
        )
    if decay is not None and (kind is not SourceKind.TF1_GRAPH or not 0.0 < decay < 1.0):
        raise InvalidInput(
            f"The moving average decay {decay!r} is not usable for a {kind.value} checkpoint.",
            "Give a number between 0 and 1, and only for tf1_graph.",
        )
    prefix = kind in {SourceKind.TF_CHECKPOINT, SourceKind.TF1_GRAPH}
    path = Path(source.path + ".index" if prefix else source.path)
    if not (path.is_dir() if kind is SourceKind.SAVED_MODEL else path.is_file()):
        expected = "directory" if kind is SourceKind.SAVED_MODEL else "file"
        raise InvalidInput(f"There is no {expected} {str(path)!r}.", _KINDS)


def check_options(options: ExportOptions, kind: SourceKind) -> None:
    """Raise InvalidInput for options that contradict each other or the `kind`."""
    if options.postprocess:
        check_reference(options.postprocess, "post-processing function")
    if not options.signature or options.signature.startswith("__"):
        raise InvalidInput(f"The signature name {options.signature!r} is not usable.", "Use serving_default.")
    for side, names in (("input", options.inputs), ("output", options.outputs)):
        if len(set(names)) != len(names) or not all(names):
            raise InvalidInput(f"The {side} names {list(names)} are not distinct and non-empty.", "Give each one name.")
    if not 0 <= options.warmup <= 1000:
        raise InvalidInput(f"{options.warmup} warm-up requests are not possible.", "Ask for 0 to 1000.")
    if options.golden < 0 or (options.golden and not options.samples):
        raise InvalidInput(
            f"{options.golden} golden requests cannot be recorded without samples.", "Name an .npz file of samples."
        )
    if kind is SourceKind.SAVED_MODEL and (options.postprocess or options.inputs or options.outputs):
        raise InvalidInput(
            "A SavedModel is published as it is: names and post-processing cannot be changed.",
            "Leave inputs, outputs and postprocess out, or export from the checkpoint.",
        )


def check_reference(reference: str, role: str) -> None:
    """Raise InvalidInput unless `reference` reads ``module:function``."""
    if not _REFERENCE.fullmatch(reference):
        raise InvalidInput(
            f"The {role} {reference!r} is not of the form module:function.", "Write package.module:name."
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
        if not path.exists():
            raise InvalidInput(f"There is no file, directory or checkpoint {str(path)!r}.", _KINDS)
        raise InvalidInput(f"{str(path)!r} is not a checkpoint that can be exported.", _KINDS)
    if Path(text + ".meta").is_file():
        return CheckpointSource(SourceKind.TF1_GRAPH, text, builder)
    return _with_builder(SourceKind.TF_CHECKPOINT, text, builder)


def _has_index(prefix: Path) -> bool:
    return Path(f"{prefix}.index").is_file()


def _with_builder(kind: SourceKind, path: str, builder: str) -> CheckpointSource:
    source = CheckpointSource(kind, path, builder)
    if not builder:
        raise weights_without_builder(source)
    return source


def weights_without_builder(source: CheckpointSource) -> InvalidInput:
    """Return the error for weights without a builder."""
    return InvalidInput(
        f"{source.path!r} holds weights only, so the model must be built first.",
        "Name the function that builds it: module:function.",
    )
