"""Make the processors that the configuration names, and report mistakes at start-up."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from tfs_deploy.errors import InvalidInput, MissingExtra, TFSDeployError
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import Postprocessor, Processor

ENTRY_POINTS = "tfs_deploy.processors"
_PACKAGE = "tfs_deploy.gateway.processors"
BUILT_IN = {
    "boxes": f"{_PACKAGE}.boxes:BoxProcessor",
    "classification": f"{_PACKAGE}.classification:ClassificationProcessor",
    "images": f"{_PACKAGE}.images:ImageProcessor",
    "tensors": f"{_PACKAGE}.tensors:TensorProcessor",
    "text": f"{_PACKAGE}.text:TextProcessor",
}


def make_processor(spec: ProcessorConfig) -> Processor:
    """Return the processor that `spec` names, made with its options; raise InvalidInput naming what is wrong."""
    made = _made(spec)
    if not isinstance(made, Processor):
        raise InvalidInput(
            f"The processor {spec.name!r} has no method preprocess.",
            "Use it as the postprocessor, with a processor that makes the model's input.",
        )
    return made


def make_postprocessor(spec: ProcessorConfig) -> Postprocessor:
    """Return the postprocessor that `spec` names, made with its options; raise InvalidInput naming what is wrong."""
    return _made(spec)


def _made(spec: ProcessorConfig) -> Postprocessor:
    factory = _factory(spec.name)
    options = getattr(factory, "Options", None)
    try:
        given = _anchored(spec, getattr(factory, "paths", ()))
        made = factory(**given) if options is None else factory(_converted(given, options))
    except TFSDeployError as error:
        raise InvalidInput(f"The processor {spec.name!r} cannot be made: {error.cause}", error.remedy) from error
    except Exception as error:  # user code may raise anything
        raise InvalidInput(
            f"The processor {spec.name!r} cannot be made: {type(error).__name__}: {error}.",
            "Correct its options.",
        ) from error
    if not isinstance(made, Postprocessor):
        raise InvalidInput(
            f"The processor {spec.name!r} is a {type(made).__name__} without a method postprocess.",
            "Name a class, or a function that returns an object, with preprocess and postprocess.",
        )
    return made


def _anchored(spec: ProcessorConfig, paths: Iterable[str]) -> dict[str, Any]:
    """Return the options of `spec`, with relative paths below its directory."""
    return {
        name: str(Path(spec.base, value)) if name in paths and isinstance(value, str) and value else value
        for name, value in spec.options.items()
    }


def _converted(given: Mapping[str, Any], options: Any) -> Any:
    try:
        return msgspec.convert(given, type=options)
    except msgspec.ValidationError as error:
        known = ", ".join(sorted(field.name for field in msgspec.structs.fields(options)))
        raise InvalidInput(f"its options do not fit: {error}.", f"It takes: {known}.") from error


def _factory(name: str) -> Any:
    """Return the factory of the processor `name`: a built-in, an entry point, or ``module:attribute``."""
    path = BUILT_IN.get(name, name)
    if ":" in path:
        return _attribute(path)
    points = [point for point in metadata.entry_points(group=ENTRY_POINTS) if point.name == name]
    if len(points) != 1:
        cause = f"There are {len(points)} processors" if points else "There is no processor"
        raise InvalidInput(
            f"{cause} called {name!r}.",
            f"Use one of {', '.join(sorted(BUILT_IN))}, an entry point of the group {ENTRY_POINTS}, "
            "or module:attribute.",
        )
    return _attribute(points[0].value)


def _attribute(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except ModuleNotFoundError as error:
        if error.name == "PIL":
            raise MissingExtra("pillow", "gateway") from error
        raise InvalidInput(f"The processor {path!r} needs the module {error.name!r}.", "Install it.") from error
    except Exception as error:  # an import runs user code, which may raise anything
        raise InvalidInput(
            f"The processor {path!r} cannot be imported: {type(error).__name__}: {error}.",
            "Use a name of the form module:attribute.",
        ) from error
    if not callable(value):
        raise InvalidInput(f"The processor {path!r} is a {type(value).__name__}.", "Name a class or a function.")
    return value
