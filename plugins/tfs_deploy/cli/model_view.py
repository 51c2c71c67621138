"""Tables about one SavedModel directory."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfs_deploy.cli.progress import size_of
from tfs_deploy.serving.signature import Signature, TensorSpec

# A model with thousands of asset files must not scroll its signatures away.
_SHOWN_FILES = 20


def show_model(console: Console, data: dict[str, Any]) -> None:
    """Print what `inspect` found."""
    manifest = "as its manifest says" if data["manifest"] else "no manifest (publish writes one)"
    requests = ", ".join(f"{kind} requests" for kind in ("warmup", "golden") if data[f"{kind}_requests"]).replace(
        "warmup", "warm-up"
    )
    facts = {
        "path": data["path"],
        "fingerprint": data["fingerprint"],
        "contents": f"{len(data['files'])} files, {size_of(data['bytes'])}, {manifest}",
        "TensorFlow": data["tensorflow_version"] or "unknown",
        "requests": requests or "none",
        **{f"from {key}": value for key, value in sorted(data["provenance"].items())},
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, style="bold"), Text(str(value), overflow="fold"))
    console.print(grid)
    console.print()
    console.print(_signatures(data["signatures"]))
    console.print()
    console.print(_files(data["files"]))


def _signatures(signatures: dict[str, Signature]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("signature", "inputs", "outputs"):
        table.add_column(title, overflow="fold")
    for name, signature in sorted(signatures.items()):
        table.add_row(Text(name), _tensors(signature.inputs), _tensors(signature.outputs))
    return table


def _tensors(specs: dict[str, TensorSpec]) -> Text:
    return Text("\n".join(f"{name}: {_spec(spec)}" for name, spec in sorted(specs.items())))


def _spec(spec: TensorSpec) -> str:
    shape = "any shape" if spec.shape is None else str([size if size is not None else None for size in spec.shape])
    return f"{spec.dtype.removeprefix('DT_').lower()} {shape.replace('None', '?')}"


def _files(files: tuple[Any, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for entry in files[:_SHOWN_FILES]:
        table.add_row(Text(entry.path), size_of(entry.size), entry.sha256[:16])
    if len(files) > _SHOWN_FILES:
        table.add_row(f"and {len(files) - _SHOWN_FILES} more (--json lists all)", "", "")
    return table
