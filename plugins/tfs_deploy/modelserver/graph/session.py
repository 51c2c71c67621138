"""A SavedModel's graph in a TensorFlow session, fed and fetched by tensor name.

The GraphDef is imported into a C graph, without a Python object per node, and run by `TF_SessionRun`, as
``tf.compat.v1.Session.run`` does. Measured on two cores: 20,000 runs per second of a tiny graph, as many as with a
callable of the session, but with a timeout per run and TF Serving's message for a wrong dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfs_deploy.modelserver import runtime, status, text_config
from tfs_deploy.modelserver.flags import Flags
from tfs_deploy.modelserver.graph.parts import Part, parts_of
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument, of_exception
from tfs_deploy.serving.codec.wire_format import varint

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GraphPieces:
    """A GraphDef in parts, and the functions that are added to the graph after them.

    `producer` is the GraphDef version of the TensorFlow that exported it.
    """

    parts: tuple[Part, ...]
    functions: tuple[bytes, ...] = ()
    producer: int = 0

    @classmethod
    def of(cls, graph_def: Any) -> GraphPieces:
        """Take `graph_def` apart and remove its functions.

        An import of nodes and functions together infers shapes through the functions, so one unknown op in any of them
        fails it. The C++ loader reads no function: such a version becomes AVAILABLE, and only calls of the affected
        signature fail (contract 20.11). Functions that are the op of a node must be imported with the nodes.
        """
        library = graph_def.library
        names = {function.signature.name for function in library.function}
        if library.gradient or any(node.op in names for node in graph_def.node):
            return cls(parts_of(graph_def), producer=graph_def.versions.producer)
        functions = tuple(function.SerializeToString() for function in library.function)
        graph_def.ClearField("library")
        return cls(parts_of(graph_def), functions, graph_def.versions.producer)


class GraphSession:
    """One graph, one session; `run` may be called from many threads at once."""

    def __init__(
        self, graph: GraphPieces, tensors: Iterable[str], operations: Iterable[str], config: Any = None
    ) -> None:
        """Import `graph`; only `tensors` can be fed and fetched, only `operations` be run."""
        tf = runtime.tensorflow()
        from tensorflow.python.client import pywrap_tf_session as c_api

        self._c_api = c_api
        self._tensors: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._graph = tf.Graph()
        self._import(graph, list(dict.fromkeys(tensors)), list(dict.fromkeys(operations)))
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._handle = self._session._session
        c_api.ExtendSession(self._handle)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        targets: Sequence[str] = (),
        *,
        timeout_ms: int | None = None,
    ) -> list[Array]:
        """Return the fetched arrays; raise tf.errors.OpError, or INVALID_ARGUMENT for a name that the graph lacks."""
        options = None
        if timeout_ms is not None:
            # RunOptions{timeout_in_ms}: field 2, a varint.
            options = self._c_api.TF_NewBufferFromString(b"\x10" + varint(max(timeout_ms, 1)))
        try:
            fetched: list[Array] = self._c_api.TF_SessionRun_wrapper(
                self._handle,
                options,
                {self._tensor(name): value for name, value in feeds.items()},
                [self._tensor(name) for name in fetches],
                [self._operation(name) for name in targets],
                None,
            )
        except UnicodeDecodeError as error:
            # The message quotes input bytes: TensorFlow's binding fails to decode it and loses the code, which is
            # INVALID_ARGUMENT for every kernel that quotes unparsable input.
            raise invalid_argument(bytes(error.object).decode("utf-8", errors="surrogateescape")) from None
        finally:
            if options is not None:
                self._c_api.TF_DeleteBuffer(options)
        return fetched

    def close(self) -> None:
        """Release the graph and its variables."""
        self._session.close()
        self._tensors.clear()
        self._operations.clear()

    def _import(self, pieces: GraphPieces, tensors: list[str], operations: list[str]) -> None:
        c_api = self._c_api
        earlier: dict[str, Any] = {}
        with self._graph._c_graph.get() as graph:
            for part in pieces.parts:
                try:
                    self._import_part(graph, part, tensors, operations, earlier)
                except Exception as error:  # of the runtime: every kind of it has a code
                    failure = of_exception(error)
                    text = status.import_message(failure.message, pieces.producer)
                    raise StatusError(failure.code, text) from error
            for definition in pieces.functions:
                function = c_api.TF_FunctionImportFunctionDef(definition)
                c_api.TF_GraphCopyFunction(graph, function, None)
                c_api.TF_DeleteFunction(function)

    def _import_part(
        self, graph: Any, part: Part, tensors: list[str], operations: list[str], earlier: dict[str, Any]
    ) -> None:
        """Add the nodes of one part; `earlier` holds the operations that are inputs of later parts."""
        c_api = self._c_api
        options = c_api.TF_NewImportGraphDefOptions()
        # A node may be colocated with one of another part; the session checks that with the whole graph.
        c_api.TF_ImportGraphDefOptionsSetValidateColocationConstraints(options, False)
        for name, index in part.inputs:
            c_api.TF_ImportGraphDefOptionsAddInputMapping(options, name, index, self._output(earlier[name], index))
        for name in part.controls:
            c_api.TF_ImportGraphDefOptionsRemapControlDependency(options, name, earlier[name])
        # Operations, not outputs: for an output that does not exist, the run raises the error, as in C++.
        wanted = {name: name.partition(":") for name in tensors if name.partition(":")[0] in part.names}
        sources = [operation for operation, _, _ in wanted.values()]
        listed = [name for name in operations if name in part.names]
        returned = list(dict.fromkeys([*listed, *part.exports, *sources]))
        for name in returned:
            c_api.TF_ImportGraphDefOptionsAddReturnOperation(options, name)
        buffer = c_api.TF_NewBufferFromString(part.graph_def)
        try:
            results = c_api.TF_GraphImportGraphDefWithResults(graph, buffer, options)
        finally:
            c_api.TF_DeleteBuffer(buffer)
            c_api.TF_DeleteImportGraphDefOptions(options)
        imported = dict(zip(returned, c_api.TF_ImportGraphDefResultsReturnOperations(results), strict=True))
        earlier |= {name: imported[name] for name in part.exports}
        self._operations |= {name: imported[name] for name in listed}
        for name, (operation, _, position) in wanted.items():
            self._tensors[name] = self._output(imported[operation], int(position or 0))
        c_api.TF_DeleteImportGraphDefResults(results)

    def _tensor(self, name: str) -> Any:
        tensor = self._tensors.get(name)
        if tensor is None and name in self._operations:
            # An operation without outputs, of `__saved_model_init_op`: the runtime raises the error.
            tensor = self._output(self._operations[name], 0)
        if tensor is None:
            raise invalid_argument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
            )
        return tensor

    def _operation(self, name: str) -> Any:
        operation = self._operations.get(name)
        if operation is None:
            raise StatusError(Code.NOT_FOUND, f"PruneForTargets: Some target nodes not found: {name} ")
        return operation

    def _output(self, operation: Any, index: int) -> Any:
        output = self._c_api.TF_Output()
        output.oper, output.index = operation, index
        return output


def text(value: str) -> Array:
    """Return a scalar string tensor."""
    return np.array(value.encode(), dtype=object)


def check_session_flags(flags: Flags) -> None:
    """Raise what TF Serving raises before any load: for contradicting thread flags, and for an invalid config file.

    Waits for TensorFlow's import, whose schema the file has, only if there is a file.
    """
    names = ("session", "intra_op", "inter_op")
    if all(flags.number(f"tensorflow_{name}_parallelism") > 0 for name in names):
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    if flags.text("tensorflow_session_config_file"):
        session_config(flags)


def session_config(flags: Flags) -> Any:
    """Return the ConfigProto; wait for TensorFlow's import."""
    config = _read_session_config(flags.text("tensorflow_session_config_file"))
    config.gpu_options.per_process_gpu_memory_fraction = float(flags.values["per_process_gpu_memory_fraction"])
    intra, inter = (flags.number(f"tensorflow_{name}_parallelism") for name in ("intra_op", "inter_op"))
    if intra <= 0 and inter <= 0:
        intra = inter = flags.number("tensorflow_session_parallelism")
    # Without a flag for the number of threads, the file's value stays.
    if intra > 0:
        config.intra_op_parallelism_threads = intra
    if inter > 0:
        config.inter_op_parallelism_threads = inter
    return config


def _read_session_config(path: str) -> Any:
    """Return the ConfigProto in the text file `path`, or an empty one without a path; raise StatusError."""
    from google.protobuf import text_format

    config = runtime.tensorflow().compat.v1.ConfigProto()
    # TF Serving's threads spin while they wait for work. Here they share the cores with the interpreter: measured on
    # two cores, sleeping threads cost less CPU per request and lower the 99th percentile.
    config.experimental.disable_thread_spinning = True
    if path:
        text_config.read_text_proto(path, type(config)())  # raises the error of an invalid file
        text_format.Merge(Path(path).read_text(encoding="utf-8"), config)  # replaces the default, also by false
    return config
