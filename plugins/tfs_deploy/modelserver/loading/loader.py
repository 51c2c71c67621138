"""Brings one version of a SavedModel into memory: estimate, graph, variables, init op, warm-up (contract 3.6, 9)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.graph.graph_session import GraphPieces, GraphSession, text
from tfs_deploy.modelserver.graph.saved_model import INIT_OP_KEY, Initialization, initialization, read_meta_graph
from tfs_deploy.modelserver.graph.servable import Array, Servable, Session
from tfs_deploy.modelserver.lifecycle.monitor import ServableId
from tfs_deploy.modelserver.loading.warmup import replay
from tfs_deploy.modelserver.status import not_found
from tfs_deploy.serving.codec import messages

logger = logging.getLogger(__name__)

SessionWrapper = Callable[[Session, Path], Session]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the flags say about loading.

    `session_config` makes the ConfigProto once TensorFlow is imported; `wrap_session` gets the initialized session and
    the version's directory, and returns what the requests run on; `probe` may raise before each load.
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
        """Walk the whole directory as TF Serving does for its resource estimate; raise what is wrong with it first."""
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
                # As in C++, where the version becomes AVAILABLE and every request fails (contract 3.6).
                logger.info("The specified SavedModel has no variables; no checkpoints were restored: %s", variables)
        if plan.init_operation:
            session.run(assets, [], [plan.init_operation])


def _tensor_names(plan: Initialization, signatures: Any) -> list[str]:
    """Return every tensor name that may be fed or fetched."""
    names = [plan.filename_tensor, *(tensor for tensor, _ in plan.assets)]
    for key, signature in signatures.signature_def.items():
        if key != INIT_OP_KEY:
            names += [info.name for side in (signature.inputs, signature.outputs) for info in side.values()]
    return [name for name in names if name]
