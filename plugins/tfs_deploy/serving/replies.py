"""The values that a client of a model server returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy.typing as npt

from tfs_deploy.serving.signature import Signature


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
