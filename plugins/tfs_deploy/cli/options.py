"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Version number, or a label of the model.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of an exported SavedModel.")]
ModelOption = Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model.")]
Gates = Annotated[
    Path | None,
    typer.Option("--gates", metavar="FILE", help="Gates file (YAML); without it the gates that need no data run."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")]
Python = Annotated[
    str | None,
    typer.Option("--python", metavar="EXECUTABLE", help="Python interpreter with TensorFlow, for a throw-away server."),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="IMAGE", help="Validate in a throw-away container of IMAGE; may be given again."),
]
Copy = Annotated[
    bool, typer.Option("--copy", help="With --image: copy the model in, where the engine does not see this disk.")
]
