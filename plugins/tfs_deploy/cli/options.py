"""Arguments and options that several commands share; a dataclass of options is given as one parameter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Version number, or a label of the model.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of an exported SavedModel.")]
ModelOption = Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model.")]
NewModel = Annotated[
    bool, typer.Option("--new-model", help="The name is new and meant, also where it resembles a known one.")
]
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

_WHERE = "Where"
_OUTPUT = "Output"


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """Where the store and the serving group are, as the command line gives them; None: not given."""

    store: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Where published versions live: a directory or s3://BUCKET/PREFIX (or TFS_DEPLOY_STORE).",
            rich_help_panel=_WHERE,
        ),
    ] = None
    group: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the serving group, 'default' if not given (or TFS_DEPLOY_GROUP).",
            rich_help_panel=_WHERE,
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings file; without it tfs-deploy.yaml in the working directory, if there is one.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT[,...]",
            help="gRPC address of every replica (or TFS_DEPLOY_TARGET).",
            rich_help_panel=_WHERE,
        ),
    ] = None
    actor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who acts, for the record; user@host if not given (or TFS_DEPLOY_ACTOR).",
            rich_help_panel=_WHERE,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a command answers."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Answer in JSON on stdout, errors too.", rich_help_panel=_OUTPUT)
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every step, show where an error arose.", rich_help_panel=_OUTPUT)
    ] = False
