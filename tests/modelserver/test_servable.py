"""No object of a version's signatures is made while requests read them: protobuf's objects are not for two threads."""

from __future__ import annotations

from typing import Any

from tfs_deploy.modelserver.graph.servable import Servable, all_parts
from tfs_deploy.serving.codec import messages


class NoSession:
    """Runs nothing."""

    def run(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def close(self) -> None: ...


def signatures() -> Any:
    made = messages.SignatureDefMap()
    info = made.signature_def["s"].inputs["x"]
    info.name = "x:0"
    info.tensor_shape.dim.add(size=-1)
    made.signature_def["s"].outputs["y"].name = "y:0"
    made.signature_def["empty"].SetInParent()
    return made


def test_every_object_that_a_request_can_ask_for_is_held() -> None:
    servable = Servable("m", 1, signatures(), NoSession())
    held = {id(each) for each in servable._parts}
    defs = servable.signature_defs
    signature = defs.signature_def["s"]
    x, y = signature.inputs["x"], signature.outputs["y"]
    asked = [
        defs,
        defs.signature_def,
        signature,
        signature.inputs,
        signature.outputs,
        x,
        x.tensor_shape,
        x.tensor_shape.dim,
        x.tensor_shape.dim[0],
        y,
        y.tensor_shape,
        defs.signature_def["empty"].inputs,
    ]
    assert [each for each in asked if id(each) not in held] == []


def test_a_message_is_not_changed_by_holding_it() -> None:
    made = signatures()
    before = made.SerializeToString(deterministic=True)
    assert len(all_parts(made)) > 10
    assert made.SerializeToString(deterministic=True) == before
