"""The client of one model server as the rest of the package uses it, and the values that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy.typing as npt

from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature


class VersionState(str, Enum):
    """The state of a version, in TF Serving's words."""

    UNKNOWN = "UNKNOWN"
    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One row of GetModelStatus; END with the code ``OK`` is an ordinary unload, any other code a failed load."""

    version: int
    state: VersionState
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The version that a model name, version or label resolves to, and its signatures."""

    model: str
    version: int
    signatures: dict[str, Signature]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One answer: `version` is the version that computed it; `outputs` may be read-only views of the reply."""

    model: str
    version: int
    signature: str
    outputs: dict[str, npt.NDArray[Any]]


class ServingClient(Protocol):
    """One model server. Every method takes its `timeout` in seconds and raises errors of `tfs_deploy.errors` only."""

    @property
    def target(self) -> str:
        """Return the address, ``host:port``."""

    def status(self, model: str, version: int | None = None, *, timeout: float) -> tuple[VersionStatus, ...]:
        """Return the known versions, newest first; none for an unknown model or version."""

    def metadata(self, model: str, *, version: int | None = None, label: str | None = None, timeout: float) -> Metadata:
        """Return the signatures of `model`: its highest AVAILABLE version unless a version or label is named."""

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float,
    ) -> Prediction:
        """Compare `inputs` with the signature, send them, return the answer; `outputs` names the wanted ones."""

    def reload(self, config: Any, *, timeout: float) -> None:
        """Replace the server's whole configuration by the ModelServerConfig `config`."""

    def close(self) -> None:
        """Close the connection; the client cannot be used after this."""
