"""Commands on model files, which need no model server: `export`, `inspect` and `golden make`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfs_deploy.cli.invocation import Invocation, command
from tfs_deploy.names import plural

if TYPE_CHECKING:
    from rich.console import Console

    from tfs_deploy.savedmodel.source import ExportOptions
    from tfs_deploy.serving.signature import TensorSpec

_SOURCE = "Source"
_REQUESTS = "Requests"
# A model with thousands of asset files must not scroll its signatures away.
_SHOWN_FILES = 20


@dataclass(frozen=True, slots=True)
class ExportFlags:
    """The options of `export`."""

    builder: Annotated[
        str,
        typer.Option(metavar="MODULE:FUNCTION", help="Builds the model of a weights file.", rich_help_panel=_SOURCE),
    ] = ""
    python_path: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Directory with the modules of --builder and --postprocess; may be given again.",
            rich_help_panel=_SOURCE,
        ),
    ] = None
    moving_average_decay: Annotated[
        float | None,
        typer.Option(metavar="DECAY", help="Restore moving averages (TensorFlow 1 graphs).", rich_help_panel=_SOURCE),
    ] = None
    signature: Annotated[str, typer.Option(metavar="NAME", help="Name of the signature.")] = "serving_default"
    only_signature: Annotated[
        bool, typer.Option("--only-signature", help="Do not write the signature as serving_default as well.")
    ] = False
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME[=TENSOR]", help="Input names in order; TENSOR in a .meta or .pb file."),
    ] = None
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", metavar="NAME[=TENSOR]", help="Output names in order; TENSOR in a .meta or .pb file."),
    ] = None
    postprocess: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Compiled into the graph, from outputs to outputs.")
    ] = ""
    samples: Annotated[
        str, typer.Option(metavar="FILE.npz", help="Sample inputs, one array per input.", rich_help_panel=_REQUESTS)
    ] = ""
    warmup: Annotated[
        int, typer.Option(metavar="N", help="How many warm-up requests to write.", rich_help_panel=_REQUESTS)
    ] = 1
    golden: Annotated[
        int,
        typer.Option(
            metavar="N", help="How many golden requests to record; needs --samples.", rich_help_panel=_REQUESTS
        ),
    ] = 0
    provenance: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Note about the origin, for the manifest; may be given again."),
    ] = None
    python: Annotated[
        str | None, typer.Option(metavar="EXECUTABLE", help="Python interpreter that has TensorFlow.")
    ] = None
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time limit of the export.", min=1.0)] = 3600.0

    def options(self) -> ExportOptions:
        """Return what the exporter takes; raise InvalidInput for a pair that is none."""
        from tfs_deploy.savedmodel.source import ExportOptions

        inputs, input_tensors = _names_and_tensors(self.inputs, "--input")
        outputs, output_tensors = _names_and_tensors(self.outputs, "--output")
        return ExportOptions(
            signature=self.signature,
            also_default=not self.only_signature,
            inputs=inputs,
            outputs=outputs,
            postprocess=self.postprocess,
            input_tensors=input_tensors,
            output_tensors=output_tensors,
            samples=self.samples,
            warmup=self.warmup,
            golden=self.golden,
            search_path=tuple(self.python_path or ()),
            provenance=_pairs(self.provenance or [], "--provenance"),
        )


@command(group_options=False)
def export(
    call: Invocation,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .keras or .h5 file, a checkpoint prefix or directory, a frozen .pb graph, or a SavedModel.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to create.")],
    flags: ExportFlags,
) -> None:
    """Turn a checkpoint into a SavedModel with manifest, warm-up and golden requests."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.savedmodel.export import exporter
    from tfs_deploy.savedmodel.source import detect

    checkpoint = replace(detect(source, flags.builder), moving_average_decay=flags.moving_average_decay)
    kind = checkpoint.kind.value
    with call.show_progress() as progress:
        progress.begin(f"export {kind} {source}")
        staged = exporter.export(
            checkpoint, out, flags.options(), python=flags.python, clock=SystemClock(), timeout=flags.timeout
        )
    manifest = staged.manifest
    data = {
        "path": staged.path,
        "kind": kind,
        "fingerprint": manifest.fingerprint,
        "bytes": manifest.total_bytes,
        "signatures": manifest.signatures,
        "tensorflow_version": manifest.tensorflow_version,
        "provenance": manifest.provenance,
    }
    signatures = ", ".join(sorted(manifest.signatures))
    call.say(data, f"Exported {source} ({kind}) to {staged.path}: signatures {signatures}; {manifest.fingerprint}.")


@command(group_options=False)
def inspect(
    call: Invocation,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a SavedModel.")],
) -> None:
    """Show signatures, files and fingerprint of a SavedModel; reads every byte, needs no TensorFlow."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.savedmodel import manifest as manifests
    from tfs_deploy.savedmodel.inspection import check_saved_model
    from tfs_deploy.savedmodel.requests import GOLDEN_PATH, WARMUP_PATH

    facts = check_saved_model(directory)
    has_manifest = (directory / manifests.MANIFEST_PATH).is_file()
    if has_manifest:
        manifest = manifests.read(directory)
        manifests.verify(directory, manifest)
    else:
        manifest = manifests.build(directory, tensorflow_version=facts.tensorflow_version, clock=SystemClock())
    paths = {entry.path for entry in manifest.files}
    data: dict[str, Any] = {
        "path": str(directory.absolute()),
        "fingerprint": manifest.fingerprint,
        "manifest": has_manifest,
        "bytes": manifest.total_bytes,
        "tensorflow_version": manifest.tensorflow_version or facts.tensorflow_version,
        "signatures": manifest.signatures,
        "warmup_requests": WARMUP_PATH in paths,
        "golden_requests": GOLDEN_PATH in paths,
        "provenance": manifest.provenance,
        "files": manifest.files,
    }
    call.answer(data, lambda console: _show_model(console, data))


@command(group_options=False)
def make_golden(
    call: Invocation,
    captures: Annotated[
        list[Path], typer.Argument(metavar="CAPTURES", help="Capture files of a gateway, or directories of them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to write the request files to.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Needed if the captures hold several.")] = "",
    most: Annotated[int, typer.Option("--max", metavar="N", min=1, help="How many golden requests at most.")] = 32,
) -> None:
    """Make golden and warm-up requests out of captured traffic: those of the newest version, none twice."""
    from tfs_deploy.gateway.capture.golden import make_golden as run_make_golden

    made = run_make_golden(captures, out, model=model, most=most)
    left_out = f"{made.repeated} repeated, {made.other} of other versions or models"
    if made.without_answer:
        left_out += f", {made.without_answer} with their answers redacted"
    golden = f"{plural(made.golden, 'golden request')} in {made.golden_file}" if made.golden else "no golden request"
    call.say(
        made,
        f"Of {plural(made.read, 'captured request')}, for version {made.version} of {made.model}: {golden}; "
        f"{plural(made.warmup, 'warm-up request')} in {made.warmup_file}. Left out: {left_out}.",
    )


def _names_and_tensors(texts: list[str] | None, option: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return names alone, or tensor by name; raise InvalidInput for a mixture of both."""
    given = texts or []
    tensors = _pairs([text for text in given if "=" in text], option)
    if tensors and len(tensors) != len(given):
        from tfs_deploy.errors import InvalidInput

        raise InvalidInput(
            f"Some of {option} name a tensor and some do not ({', '.join(given)}).",
            "Write NAME=TENSOR for all or for none.",
        )
    return ((), tensors) if tensors else (tuple(given), {})


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    from tfs_deploy.errors import InvalidInput

    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or key in pairs:
            raise InvalidInput(f"{option} {text!r} is not KEY=VALUE with a key of its own.", "Write one pair each.")
        pairs[key] = value
    return pairs


def _show_model(console: Console, data: dict[str, Any]) -> None:
    """Print the facts, the signatures and the files of a SavedModel."""
    from rich.table import Table
    from rich.text import Text

    from tfs_deploy.cli.tables import Column, print_table, readable_size

    manifest = "as its manifest says" if data["manifest"] else "no manifest (publish writes one)"
    requests = [kind for kind, key in (("warm-up", "warmup"), ("golden", "golden")) if data[f"{key}_requests"]]
    facts = {
        "path": data["path"],
        "fingerprint": data["fingerprint"],
        "contents": f"{plural(len(data['files']), 'file')}, {readable_size(data['bytes'])}, {manifest}",
        "TensorFlow": data["tensorflow_version"] or "unknown",
        "requests": ", ".join(f"{kind} requests" for kind in requests) or "none",
        **{f"from {key}": value for key, value in sorted(data["provenance"].items())},
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, style="bold"), Text(str(value), overflow="fold"))
    console.print(grid)
    console.print()
    signatures = [
        (name, _tensors(signature.inputs), _tensors(signature.outputs))
        for name, signature in sorted(data["signatures"].items())
    ]
    print_table(console, [Column("signature"), Column("inputs", folds=True), Column("outputs", folds=True)], signatures)
    console.print()
    files = [(entry.path, readable_size(entry.size), entry.sha256[:16]) for entry in data["files"][:_SHOWN_FILES]]
    if len(data["files"]) > _SHOWN_FILES:
        files.append((f"and {len(data['files']) - _SHOWN_FILES} more (--json lists all)", "", ""))
    print_table(console, [Column("file", folds=True), Column("size", right=True), Column("SHA-256")], files)


def _tensors(specs: dict[str, TensorSpec]) -> str:
    return "\n".join(f"{name}: {_spec(spec)}" for name, spec in sorted(specs.items()))


def _spec(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str(list(spec.shape)).replace("None", "?")
    return f"{spec.dtype.removeprefix('DT_').lower()} {shape}"
