"""Loads one version of a SavedModel: estimate, graph, variables, init op, warm-up (contract 3.6, 9).

A SavedModel directory is read as TF Serving's C++ loader reads it, with its error texts (contract 20.7, 20.11).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.graph.servable import Array, Servable, Session
from tfs_deploy.modelserver.graph.session import GraphPieces, GraphSession, text
from tfs_deploy.modelserver.lifecycle.monitor import ServableId
from tfs_deploy.modelserver.loading.warmup import replay
from tfs_deploy.modelserver.status import Code, StatusError, failed_precondition, not_found, of_os_error
from tfs_deploy.serving.codec import messages

logger = logging.getLogger(__name__)

SessionWrapper = Callable[[Session, Path], Session]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The flags of loading.

    `session_config` makes the ConfigProto when TensorFlow is imported; `wrap_session` gets the initialized session and
    the version's directory, and returns the session of the requests; `probe` may raise before each load.
    """

    tags: Sequence[str] = ("serve",)
    enable_warmup: bool = True
    warmup_iterations: int = 1
    check_method_name: bool = False
    session_config: Callable[[], Any] = field(default=lambda: None)
    wrap_session: SessionWrapper = field(default=lambda session, directory: session)
    probe: Callable[[ServableId, str], None] = field(default=lambda id_, path: None)


class SavedModelLoader:
    """Loads the version in one directory."""

    def __init__(self, id_: ServableId, path: str, options: LoadOptions) -> None:
        self._id = id_
        self._directory = Path(path)
        self._options = options
        self._session: Session | None = None

    def estimate(self) -> None:
        """Walk the whole directory as TF Serving's resource estimate does; raise the first error."""
        if not os.path.exists(self._directory):
            raise not_found(f"{self._directory} not found")
        pending = [self._directory]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append(Path(entry.path))
                    else:
                        entry.stat()

    def load(self) -> Servable:
        """Return the version, warmed up."""
        self._options.probe(self._id, str(self._directory))
        with metrics.measured_load(str(self._directory)):
            servable = self._read()
        if self._options.enable_warmup:
            try:
                replay(
                    self._directory,
                    servable,
                    self._options.warmup_iterations,
                    check_method_name=self._options.check_method_name,
                )
            except BaseException:
                servable.session.close()
                raise
        self._session = servable.session
        return servable

    def unload(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _read(self) -> Servable:
        meta_graph = read_meta_graph(self._directory, self._options.tags)
        plan = initialization(self._directory, meta_graph)
        signatures = messages.SignatureDefMap()
        for key, signature in meta_graph.signature_def.items():
            signatures.signature_def[key].CopyFrom(signature)
        nodes = frozenset(node.name for node in meta_graph.graph_def.node)
        graph = GraphSession(
            GraphPieces.of(meta_graph.graph_def),
            [name for name in _tensor_names(plan, signatures) if name.partition(":")[0] in nodes],
            [name for name in (plan.restore_operation, plan.init_operation) if name in nodes],
            self._options.session_config(),
        )
        del meta_graph
        session: Session = graph
        try:
            self._initialize(graph, plan)
            session = self._options.wrap_session(graph, self._directory)
        except BaseException:
            session.close()
            raise
        return Servable(self._id.name, self._id.version, signatures, session)

    def _initialize(self, session: GraphSession, plan: Initialization) -> None:
        assets: dict[str, Array] = {tensor: text(path) for tensor, path in plan.assets}
        if plan.restore_operation:
            variables = self._directory / "variables" / "variables"
            if variables.with_name("variables.index").exists():
                session.run({plan.filename_tensor: text(str(variables)), **assets}, [], [plan.restore_operation])
            else:
                # As in C++, the version becomes AVAILABLE and every request fails (contract 3.6).
                logger.info("The specified SavedModel has no variables; no checkpoints were restored: %s", variables)
        if plan.init_operation:
            session.run(assets, [], [plan.init_operation])


def _tensor_names(plan: Initialization, signatures: Any) -> list[str]:
    """Return the names of all tensors that may be fed or fetched."""
    names = [plan.filename_tensor, *(tensor for tensor, _ in plan.assets)]
    for key, signature in signatures.signature_def.items():
        if key != INIT_OP_KEY:
            names += [info.name for side in (signature.inputs, signature.outputs) for info in side.values()]
    return [name for name in names if name]


INIT_OP_KEY = "__saved_model_init_op"
_ASSETS_KEY = "saved_model_assets"
# In the order of their lookup: TensorFlow 1's main op, then its predecessor.
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")


@dataclass(frozen=True, slots=True)
class Initialization:
    """The initialization before the first request: names of graph elements, and asset files that feed them."""

    restore_operation: str
    filename_tensor: str
    init_operation: str
    assets: tuple[tuple[str, str], ...]


def read_meta_graph(directory: Path, tags: Sequence[str]) -> Any:
    """Return the MetaGraphDef whose tag set is exactly `tags`."""
    saved_model = _read_saved_model(directory)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def initialization(directory: Path, meta_graph: Any) -> Initialization:
    """Return how the graph is initialized: restore op, init op, asset files."""
    saver = meta_graph.saver_def
    return Initialization(
        restore_operation=saver.restore_op_name,
        filename_tensor=_tensor_name(saver.filename_tensor_name),
        init_operation=_init_operation(directory, meta_graph),
        assets=tuple(
            (_tensor_name(asset.tensor_info.name), str(directory / "assets" / asset.filename))
            for asset in _asset_files(meta_graph)
        ),
    )


def _read_saved_model(directory: Path) -> Any:
    binary, text = directory / "saved_model.pb", directory / "saved_model.pbtxt"
    try:
        if binary.exists():
            # TensorFlow reads a directory of this name as an empty file.
            return messages.SavedModel.FromString(b"" if binary.is_dir() else binary.read_bytes())
        if text.exists():
            return text_format.Parse(text.read_text(), messages.SavedModel(), descriptor_pool=messages.private_pool())
    except OSError as error:
        raise of_os_error(error) from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        # The error of TensorFlow's reader for bytes that are no SavedModel, binary or text (observed).
        raise StatusError(Code.OUT_OF_RANGE, "Read less bytes than requested") from error
    if (directory / "export.meta").exists():
        raise StatusError(Code.UNIMPLEMENTED, "Session Bundle is deprecated and removed.")
    raise not_found(
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {directory}"
    )


def _init_operation(directory: Path, meta_graph: Any) -> str:
    """Return the name of the init op, or an empty string."""
    if INIT_OP_KEY in meta_graph.signature_def:
        return str(meta_graph.signature_def[INIT_OP_KEY].outputs[INIT_OP_KEY].name)
    for key in _INIT_COLLECTIONS:
        if key in meta_graph.collection_def:
            names = meta_graph.collection_def[key].node_list.value
            if len(names) != 1:
                raise failed_precondition(f"Expected exactly one main op in : {directory}")
            return str(names[0])
    return ""


def _asset_files(meta_graph: Any) -> list[Any]:
    if meta_graph.asset_file_def:
        return list(meta_graph.asset_file_def)
    kind = messages.message_class("tensorflow.AssetFileDef")
    packed = meta_graph.collection_def[_ASSETS_KEY].any_list.value if _ASSETS_KEY in meta_graph.collection_def else ()
    return [kind.FromString(item.value) for item in packed]


def _tensor_name(name: str) -> str:
    return name if not name or ":" in name else f"{name}:0"
