"""A SavedModel's graph in a TensorFlow session, fed and fetched by tensor name.

The C++ loader hands the GraphDef to a DirectSession; here it is imported into a C graph, without one Python object per
node, and run through the same `TF_SessionRun` that ``tf.compat.v1.Session.run`` ends in. Measured on two cores:
20,000 runs per second of a tiny graph, as many as with a pre-made callable, but with a timeout per run, and with the
message that TF Serving gives for a wrong dtype.
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
    """A GraphDef in parts, and those of its functions that are added to the graph after it.

    `producer` is the GraphDef version of the TensorFlow that exported it.
    """

    parts: tuple[Part, ...]
    functions: tuple[bytes, ...] = ()
    producer: int = 0

    @classmethod
    def of(cls, graph_def: Any) -> GraphPieces:
        """Take `graph_def` apart (it loses its functions).

        Importing nodes together with functions infers shapes through the functions, so one unknown op in any of them
        fails the import. The C++ loader looks into no function: such a version becomes AVAILABLE, and only calls of the
        affected signature fail (contract 20.11). Functions that are the op of a node must come with the nodes.
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
            # A message that quotes input bytes: TensorFlow's Python binding fails to decode it and loses the code,
            # which is this one wherever a kernel quotes what it cannot parse.
            raise invalid_argument(bytes(error.object).decode("utf-8", errors="surrogateescape")) from None
        finally:
            if options is not None:
                self._c_api.TF_DeleteBuffer(options)
        return fetched

    def close(self) -> None:
        """Give the graph and its variables back."""
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
        """Add the nodes of one part; `earlier` holds the operations that later parts take from."""
        c_api = self._c_api
        options = c_api.TF_NewImportGraphDefOptions()
        # A node may be placed beside one of another part; the session looks at that when it has the whole graph.
        c_api.TF_ImportGraphDefOptionsSetValidateColocationConstraints(options, False)
        for name, index in part.inputs:
            c_api.TF_ImportGraphDefOptionsAddInputMapping(options, name, index, self._output(earlier[name], index))
        for name in part.controls:
            c_api.TF_ImportGraphDefOptionsRemapControlDependency(options, name, earlier[name])
        # Operations, not outputs: that a signature names an output which is none is told by the run, as in C++.
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
        found = dict(zip(returned, c_api.TF_ImportGraphDefResultsReturnOperations(results), strict=True))
        earlier |= {name: found[name] for name in part.exports}
        self._operations |= {name: found[name] for name in listed}
        for name, (operation, _, position) in wanted.items():
            self._tensors[name] = self._output(found[operation], int(position or 0))
        c_api.TF_DeleteImportGraphDefResults(results)

    def _tensor(self, name: str) -> Any:
        found = self._tensors.get(name)
        if found is None and name in self._operations:
            # An operation without outputs, of `__saved_model_init_op`: the runtime says what is wrong with it.
            found = self._output(self._operations[name], 0)
        if found is None:
            raise invalid_argument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
            )
        return found

    def _operation(self, name: str) -> Any:
        found = self._operations.get(name)
        if found is None:
            raise StatusError(Code.NOT_FOUND, f"PruneForTargets: Some target nodes not found: {name} ")
        return found

    def _output(self, operation: Any, index: int) -> Any:
        output = self._c_api.TF_Output()
        output.oper, output.index = operation, index
        return output


def text(value: str) -> Array:
    """Return a scalar string tensor."""
    return np.array(value.encode(), dtype=object)


def check_session_flags(flags: Flags) -> None:
    """Refuse what TF Serving refuses before it loads anything: thread flags that contradict, a file that is no config.

    Waits for TensorFlow's import only where there is a file, whose schema is TensorFlow's.
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
    # Where no flag asks for a number of threads, what the file says stays.
    if intra > 0:
        config.intra_op_parallelism_threads = intra
    if inter > 0:
        config.inter_op_parallelism_threads = inter
    return config


def _read_session_config(path: str) -> Any:
    """Return the ConfigProto in the text file `path`, or an empty one without a path; raise StatusError."""
    from google.protobuf import text_format

    config = runtime.tensorflow().compat.v1.ConfigProto()
    # TF Serving's sessions spin while they wait for work. Here the same cores run the interpreter that answers the
    # requests: measured on two cores, threads that sleep cost less CPU per request and lower the 99th percentile.
    config.experimental.disable_thread_spinning = True
    if path:
        text_config.read_text_proto(path, type(config)())  # what is wrong with the file is told here
        text_format.Merge(Path(path).read_text(encoding="utf-8"), config)  # over the default, also with a false
    return config
