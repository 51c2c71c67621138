"""What a user asks of a version before it may go live: the gates file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.yamlfile import read_yaml

_Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
# Finite: with an infinite tolerance a gate passes whatever it is shown.
_NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=sys.float_info.max)]


# Structs, not dataclasses: a misspelt key must be an error here, or a gate would be silently missing.
class GoldenGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recorded requests must be answered as recorded: ``|answer - recorded| <= atol + rtol * |recorded|``.

    `file` is a PredictionLog TFRecord; empty means the requests that the export wrote into the version.
    """

    file: str = ""
    rtol: _NotNegative = 1e-3
    atol: _NotNegative = 1e-5


class AccuracyGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of right answers on a labelled set must reach `floor` and the live version's share.

    `file` is an .npz with one array per input and `labels`; `output` names the output that is compared (argmax over
    its last axis where it has one more axis than the labels). `allowed_drop` is how far below the live version is
    still accepted; `compare_live` switches that comparison off.
    """

    file: str
    output: str = ""
    signature: str = "serving_default"
    floor: _Fraction = 0.0
    compare_live: bool = True
    allowed_drop: _Fraction = 0.0
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every gate of a deploy; `signature` and `prediction` run unless they are switched off by name."""

    signature: bool = True
    prediction: bool = True
    golden: GoldenGate = GoldenGate()
    accuracy: AccuracyGate | None = None
    rpc_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 30.0


def read_gates(path: str | Path | None) -> Gates:
    """Return the gates of a YAML or JSON file (None: the defaults); raise InvalidInput where it does not fit.

    Relative paths in it count from the file's own directory.
    """
    if path is None:
        return Gates()
    source = Path(path)
    data = read_yaml(source, "gates file")
    where = f"The gates file {str(source)!r} does"
    return _anchored(gates_from({} if data is None else data, where=where), source.parent)


def gates_from(data: object, *, where: str = "The gates do") -> Gates:
    """Return `data` (dicts and lists) as gates; raise InvalidInput naming the key that does not fit."""
    try:
        return msgspec.convert(data, type=Gates)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{where} not fit: {error}.",
            "Known keys: signature, prediction, golden{file,rtol,atol}, "
            "accuracy{file,output,signature,floor,compare_live,allowed_drop,batch_size}, rpc_seconds.",
        ) from error


def _anchored(gates: Gates, base: Path) -> Gates:
    golden, accuracy = gates.golden, gates.accuracy
    if golden.file:
        golden = msgspec.structs.replace(golden, file=str(base / golden.file))
    if accuracy:
        accuracy = msgspec.structs.replace(accuracy, file=str(base / accuracy.file))
    return msgspec.structs.replace(gates, golden=golden, accuracy=accuracy)
