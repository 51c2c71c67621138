"""Commands that need no model server: `export` and `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfs_deploy.cli.invocation import Invocation, command

_SOURCE = "Source"
_REQUESTS = "Requests"


@command(somewhere=False)
def export(
    call: Invocation,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .keras or .h5 file, a checkpoint prefix or directory, a frozen .pb graph, or a SavedModel.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to create.")],
    builder: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Builds what weights go into.", rich_help_panel=_SOURCE)
    ] = "",
    python_path: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Where builder and post-processing are found.", rich_help_panel=_SOURCE),
    ] = None,
    moving_average_decay: Annotated[
        float | None,
        typer.Option(help="Restore moving averages (TensorFlow 1 graphs).", rich_help_panel=_SOURCE),
    ] = None,
    signature: Annotated[str, typer.Option(metavar="NAME", help="Name of the signature.")] = "serving_default",
    only_signature: Annotated[
        bool, typer.Option("--only-signature", help="Do not write it as serving_default as well.")
    ] = False,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME[=TENSOR]", help="Input names in order; TENSOR in a .meta or .pb file."),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", metavar="NAME[=TENSOR]", help="Output names in order; TENSOR in a .meta or .pb file."),
    ] = None,
    postprocess: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="Compiled into the graph, from outputs to outputs.")
    ] = "",
    samples: Annotated[
        str, typer.Option(metavar="FILE.npz", help="Sample inputs, one array per input.", rich_help_panel=_REQUESTS)
    ] = "",
    warmup: Annotated[int, typer.Option(help="How many warm-up requests to write.", rich_help_panel=_REQUESTS)] = 1,
    golden: Annotated[
        int, typer.Option(help="How many golden requests to record; needs samples.", rich_help_panel=_REQUESTS)
    ] = 0,
    provenance: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Note about the origin, for the manifest.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="EXECUTABLE", help="Python interpreter that has TensorFlow.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the export is given up.", min=1.0)] = 3600.0,
) -> None:
    """Turn a checkpoint into a SavedModel with manifest, warm-up and golden requests."""
    from dataclasses import replace

    from tfs_deploy.clock import SystemClock
    from tfs_deploy.savedmodel.export import exporter as exporting
    from tfs_deploy.savedmodel.source import ExportOptions, detect

    chosen = replace(detect(source, builder), moving_average_decay=moving_average_decay)
    input_names, input_tensors = _named(inputs, "--input")
    output_names, output_tensors = _named(outputs, "--output")
    options = ExportOptions(
        signature=signature,
        also_default=not only_signature,
        inputs=input_names,
        outputs=output_names,
        postprocess=postprocess,
        input_tensors=input_tensors,
        output_tensors=output_tensors,
        samples=samples,
        warmup=warmup,
        golden=golden,
        search_path=tuple(python_path or ()),
        provenance=_pairs(provenance or [], "--provenance"),
    )
    with call.working() as work:
        work.begin(f"export {chosen.kind.value} {source}")
        staged = exporting.export(chosen, out, options, python=python, clock=SystemClock(), timeout=timeout)
    manifest = staged.manifest
    data = {
        "path": staged.path,
        "kind": chosen.kind.value,
        "fingerprint": manifest.fingerprint,
        "bytes": manifest.total_bytes,
        "signatures": manifest.signatures,
        "tensorflow_version": manifest.tensorflow_version,
        "provenance": manifest.provenance,
    }
    call.say(
        data,
        f"Exported {source} ({chosen.kind.value}) to {staged.path}: signatures {', '.join(sorted(manifest.signatures))}"
        f"; {manifest.fingerprint}.",
    )


@command(somewhere=False)
def inspect(
    call: Invocation,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a SavedModel.")],
) -> None:
    """Show signatures, files and fingerprint of a SavedModel; reads every byte, needs no TensorFlow."""
    from tfs_deploy.clock import SystemClock
    from tfs_deploy.errors import NotFound
    from tfs_deploy.savedmodel import manifest as manifests
    from tfs_deploy.savedmodel.files import is_directory
    from tfs_deploy.savedmodel.inspection import check_saved_model
    from tfs_deploy.savedmodel.requests import GOLDEN_PATH, WARMUP_PATH

    if not is_directory(directory):
        raise NotFound(f"There is no directory {str(directory)!r}.", "Name the directory of a SavedModel.")
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

    from tfs_deploy.cli.model_view import show_model

    call.answer(data, lambda console: show_model(console, data))


def _named(texts: list[str] | None, option: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return names alone, or names with graph tensors; a mixture of both is refused."""
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
