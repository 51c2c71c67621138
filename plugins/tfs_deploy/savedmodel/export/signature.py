"""The signature of a SavedModel: its names, the user's functions behind it, and how a TensorFlow 2 function is written.

Runs in the exporting process: TensorFlow is imported inside functions only.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import ExportFailed, InvalidInput, TFSDeployError
from tfs_deploy.savedmodel.source import ExportOptions

_TITLES = frozenset({"", "Graph execution error:"})
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServedFunction:
    """The function that a signature calls.

    `call` takes one tensor per spec of `specs`; `root` tracks every variable that it uses.
    """

    root: Any
    specs: tuple[Any, ...]
    call: Callable[..., Any]
    output_names: tuple[str, ...] = ()


def error_summary(error: BaseException) -> str:
    """Return the type and the first line of `error`, short enough for one sentence."""
    # TensorFlow puts a title above the error of a session or a function.
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" \t") not in _TITLES]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text[:300].rstrip(".")


def load_function(reference: str, role: str) -> Callable[..., Any]:
    """Return the function that `reference` (``module:function``) names; `role` is its name in errors.

    Raise InvalidInput where there is no such module or function, ExportFailed where the module's own code fails.
    """
    module_name, _, function_name = reference.partition(":")
    try:
        function: Any = importlib.import_module(module_name)
    # A module can raise anything while it is imported, and leave by sys.exit.
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        raise (InvalidInput if missing else ExportFailed)(
            f"The module {module_name!r} of the {role} {reference!r} cannot be imported: {error_summary(error)}.",
            "Put its directory on the search path, and check that the exporting interpreter can import it.",
        ) from error
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise InvalidInput(f"The {role} {reference!r} is not a function.", f"Define it in {module_name!r}.")
    return function  # type: ignore[no-any-return]


def call_function(reference: str, role: str, *arguments: Any) -> Any:
    """Call the function that `reference` names; raise ExportFailed for any exception of its own."""
    function = load_function(reference, role)
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise ExportFailed(
            f"The {role} {reference!r} raised {error_summary(error)}.",
            "Call it outside of the export to see where it fails.",
        ) from error


def input_names(own: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return one name per input: the `wanted` names in order, or the model's `own` names without special characters."""
    if wanted and len(wanted) != len(own):
        raise InvalidInput(
            f"{len(wanted)} input names {list(wanted)} were given, but the model has {len(own)} inputs: {list(own)}.",
            "Give one name per input, in their order.",
        )
    for name in wanted:
        if not _WORD.fullmatch(name):
            raise InvalidInput(f"The input name {name!r} is not usable.", "Use letters, digits and '_'.")
    names = list(wanted) or [_word(name, f"input_{number}") for number, name in enumerate(own)]
    if len(set(names)) != len(names):
        raise InvalidInput(f"The model's input names {names} are not distinct.", "Give each input a name.")
    return names


def output_tensors(outputs: Any, own: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the outputs by name.

    `outputs` is a mapping, a sequence or one tensor. If all `wanted` names exist, those outputs are picked; otherwise
    there must be one wanted name per output, and the outputs are renamed in their order.
    """
    named = _named(outputs, own)
    if not wanted:
        return named
    if all(name in named for name in wanted):
        return {name: named[name] for name in wanted}
    if len(wanted) != len(named):
        unknown = [name for name in wanted if name not in named]
        raise InvalidInput(
            f"The output names {unknown} are not among the model's outputs {list(named)}.",
            "Pick from the model's outputs, or give one new name for each of them, in their order.",
        )
    return dict(zip(wanted, named.values(), strict=True))


def postprocessed(outputs: dict[str, Any], reference: str) -> dict[str, Any]:
    """Return the outputs of the function `reference` applied to `outputs`; `outputs` itself without a reference."""
    if not reference:
        return outputs
    role = "post-processing function"
    result = call_function(reference, role, dict(outputs))
    if not isinstance(result, Mapping) or not result or not all(isinstance(name, str) and name for name in result):
        raise ExportFailed(
            f"The {role} {reference!r} returned a {type(result).__name__} instead of a dict of named tensors.",
            "Return a dict from output name to tensor.",
        )
    return dict(result)


def signature_map(signature: str, also_default: bool, value: Any) -> dict[str, Any]:
    """Return `value` under the name `signature` and, if `also_default`, under ``serving_default``."""
    return {signature: value, "serving_default": value} if also_default else {signature: value}


def write_saved_model(served: ServedFunction, options: ExportOptions, directory: str) -> None:
    """Write `served` to `directory` with the names of `options`."""
    import tensorflow as tf

    names = input_names([spec.name or "" for spec in served.specs], options.inputs)
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for spec, name in zip(served.specs, names, strict=True)]
    # tf.function wraps exceptions of the trace, so this package's own error is kept here.
    failures: list[TFSDeployError] = []

    def serve(*tensors: Any) -> dict[str, Any]:
        try:
            outputs = output_tensors(served.call(*tensors), served.output_names, options.outputs)
            return postprocessed(outputs, options.postprocess)
        except TFSDeployError as error:
            failures.append(error)
            raise

    module = tf.Module()
    try:
        module.serve = tf.function(serve, input_signature=specs)
        signature = module.serve.get_concrete_function()
        # Not `root` itself: a Keras 3 model tracked from here is saved with copies of its variables, and the
        # originals, which the function reads, are never restored. It also omits objects that only training uses.
        module.captured = _variables(signature)
        module.resources = _resources(served.root)
        tf.saved_model.save(
            module, directory, signatures=signature_map(options.signature, options.also_default, signature)
        )
    except Exception as error:
        if failures:
            raise failures[0] from error
        raise ExportFailed(
            f"The model cannot be written as a SavedModel: {error_summary(error)}.",
            "Call it with tensors of its input signature to see where it fails.",
        ) from error


def _named(outputs: Any, own: Sequence[str]) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): tensor for name, tensor in outputs.items()}
    tensors = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if len(own) == len(tensors) and len(set(own)) == len(own):
        return dict(zip(own, tensors, strict=True))
    return {f"output_{number}": tensor for number, tensor in enumerate(tensors)}


def _word(name: str, fallback: str) -> str:
    word = re.sub(r"\W", "_", name.split(":")[0], flags=re.ASCII)
    return word if _WORD.fullmatch(word) else fallback


def _variables(signature: Any) -> list[Any]:
    """Return the variables that the concrete function reads, in the order in which it captured them.

    ``signature.variables`` comes from a set, whose order would change the bytes of every export.
    """
    places = {id(tensor): place for place, tensor in enumerate(signature.captured_inputs)}
    return sorted(signature.variables, key=lambda v: (places.get(id(v.handle), len(places)), v.name))


def _resources(root: Any) -> list[Any]:
    """Return the resources below `root`, e.g. lookup tables."""
    import tensorflow as tf

    holder = tf.Module()
    holder.root = root
    objects = tf.train.TrackableView(holder).descendants()
    return [child for child in objects if isinstance(child, tf.saved_model.experimental.TrackableResource)]
