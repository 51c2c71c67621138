"""What a gate is, and what it works with: the files of a version, and the version as one replica serves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tfs_deploy.errors import CorruptModel, Inconclusive, InvalidInput, NotFound
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.savedmodel.requests import GOLDEN_PATH, GoldenRequest, parse_golden, read_golden
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.replies import Prediction
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature
from tfs_deploy.validation.report import Verdict

Options = TypeVar("Options")
Prepared = TypeVar("Prepared")
T = TypeVar("T")


class Worse(Enum):
    """Which of two values of a metric is the worse one: that one is reported for a group of replicas."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of one gate on one replica, with the metrics that it measured."""

    verdict: Verdict
    detail: str
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFiles:
    """The version under validation as it is stored; gates read it before any server is asked.

    `read_file` returns a small file of the version by its path. `golden_file` replaces the version's own golden
    requests where it is not empty.
    """

    manifest: Manifest
    read_file: Callable[[str], bytes]
    golden_file: str = ""

    @property
    def golden_source(self) -> str:
        """Return where the golden requests come from, for messages."""
        return self.golden_file or "the version itself"

    @cached_property
    def golden_requests(self) -> tuple[GoldenRequest, ...]:
        """Return the recorded requests; none where the version has none of its own.

        Raises InvalidInput for a golden file that cannot be read or is empty, CorruptModel for the version's own one.
        """
        if not self.golden_file:
            stored = any(entry.path == GOLDEN_PATH for entry in self.manifest.files)
            return parse_golden(self.read_file(GOLDEN_PATH), where=GOLDEN_PATH) if stored else ()
        requests = read_gate_file(read_golden, self.golden_file)
        if not requests:
            raise InvalidInput(
                f"The golden file {self.golden_file!r} holds no request, so the gate that was asked for would not run.",
                "Record requests, or leave golden.file out.",
            )
        return requests

    def signature(self, name: str, *, where: str, remedy: str) -> Signature:
        """Return a signature of the model; raise InvalidInput, with `where` naming what asks for it, without it."""
        signatures = self.manifest.signatures
        if name not in signatures:
            raise InvalidInput(
                f"{where} asks signature {name!r}, which the model lacks (it has {', '.join(sorted(signatures))}).",
                remedy,
            )
        return signatures[name]


def read_gate_file(read: Callable[[Path], T], path: str) -> T:
    """Read a file that the gates file names; a missing or damaged one is InvalidInput: the model is not at fault."""
    try:
        return read(Path(path))
    except (NotFound, CorruptModel) as error:
        raise InvalidInput(error.cause, error.remedy) from error


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One version of a model on one replica; every answer is checked to come from that version."""

    client: ServingClient
    model: str
    version: int
    timeout: float

    def predict(self, inputs: Mapping[str, np.ndarray], signature: str = DEFAULT_SIGNATURE) -> Prediction:
        """Ask for one prediction; raise Inconclusive if another version answers."""
        reply = self.client.predict(self.model, inputs, version=self.version, signature=signature, timeout=self.timeout)
        if reply.version != self.version:
            raise Inconclusive(
                f"Replica {self.client.target} answered for version {self.version} of {self.model!r} with version "
                f"{reply.version}.",
                "Look for a proxy between the deployer and the replica.",
            )
        return reply


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The version that is live, on the server that serves it."""

    client: ServingClient
    version: int


@dataclass(frozen=True, slots=True)
class Candidate(ServedVersion):
    """The version under validation; `live` is the version to compare it with, None where nothing is live."""

    live: ServedVersion | None = None


class Gate(ABC, Generic[Options, Prepared]):
    """One check of a version. A new gate is a subclass in a file of its own, listed in `gates.GATES`.

    `name` is its key in the gates file and its name in reports. `options` is the type of its value in the gates file: a
    msgspec Struct that forbids unknown fields, or bool for a gate that is only on or off. `default` is the value
    without that key; None or False: the gate does not run. `paths` lists the options that name files: relative ones
    count from the folder of the gates file. `metrics` lists everything that it measures.
    """

    name: ClassVar[str]
    options: ClassVar[Any]
    default: ClassVar[Any]
    paths: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[Mapping[str, Worse]] = {}

    @abstractmethod
    def prepare(self, options: Options, files: ModelFiles) -> Prepared | None:
        """Read what the gate needs; None: there is nothing to check.

        Raises InvalidInput for everything in the gates file or the files it names that cannot fit the model, and
        CorruptModel for a damaged version: both before any server is asked.
        """

    @abstractmethod
    def check(self, options: Options, prepared: Prepared, candidate: Candidate) -> Outcome:
        """Check one replica.

        A Permanent error counts as a failure of the version. Inconclusive are a Transient one, SetupError, NotServed,
        and an exception that is not of this package.
        """

    def compares_live(self, options: Options) -> bool:
        """Tell whether the outcome depends on the version that is live."""
        return False
