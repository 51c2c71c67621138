"""Signatures from files, checks of inputs, and compatibility."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from fakes import HALF_PLUS_TWO, signature_def
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.signature import (
    Signature,
    TensorSpec,
    check_inputs,
    compatible,
    from_signature_def,
    signatures_of_saved_model,
)

IMAGE = Signature(
    inputs={"image": TensorSpec("DT_FLOAT", (None, 8, 8, 1)), "key": TensorSpec("DT_STRING", None)},
    outputs={"score": TensorSpec("DT_FLOAT", (None, 10))},
    method_name="tensorflow/serving/predict",
    optional=("key",),
)


def saved_model(*tags: str, signatures: dict[str, Signature]) -> messages.SavedModel:
    message = messages.SavedModel()
    graph = message.meta_graphs.add()
    graph.meta_info_def.tags.extend(tags)
    for name, signature in signatures.items():
        graph.signature_def[name].CopyFrom(signature_def(signature))
    return message


def test_a_foreign_saved_model(shared_models: Path) -> None:
    found = signatures_of_saved_model(shared_models / "half_plus_two_tf2_cpu" / "00000123")
    assert found["serving_default"].inputs["x"].dtype == "DT_FLOAT"
    assert found["classify_x_to_y"].inputs == {"inputs": TensorSpec("DT_STRING", (None,), "classify_x_to_y_inputs:0")}
    assert "__saved_model_init_op" not in found


def test_a_signature_survives_its_message_and_json() -> None:
    assert from_signature_def(signature_def(IMAGE)) == IMAGE
    assert from_json(Signature, to_json(IMAGE)) == IMAGE


@pytest.mark.parametrize("text", [False, True])
def test_only_public_signatures_of_the_serving_graph_are_read(tmp_path: Path, text: bool) -> None:
    message = saved_model("train", signatures={"train": IMAGE})
    message.MergeFrom(saved_model("serve", signatures={"serving_default": IMAGE, "__saved_model_init_op": IMAGE}))
    if text:
        (tmp_path / "saved_model.pbtxt").write_text(
            text_format.MessageToString(message, descriptor_pool=messages.private_pool())
        )
    else:
        (tmp_path / "saved_model.pb").write_bytes(message.SerializeToString())
    assert signatures_of_saved_model(tmp_path) == {"serving_default": IMAGE}
    assert signatures_of_saved_model(tmp_path, ["train"]) == {"train": IMAGE}


def test_the_tags_must_be_exactly_those(tmp_path: Path) -> None:
    message = saved_model("serve", "gpu", signatures={"serving_default": IMAGE})
    (tmp_path / "saved_model.pb").write_bytes(message.SerializeToString())
    with pytest.raises(CorruptModel, match="no graph with the tags serve; it has: gpu, serve"):
        signatures_of_saved_model(tmp_path)


def test_what_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no saved_model\.pb in"):
        signatures_of_saved_model(tmp_path)
    (tmp_path / "saved_model.pbtxt").write_text("garbage {")
    with pytest.raises(CorruptModel, match="is not a SavedModel"):
        signatures_of_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xffgarbage")
    with pytest.raises(CorruptModel, match="is not a SavedModel"):
        signatures_of_saved_model(tmp_path)


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": np.zeros((3, 8, 8, 1), np.float32)},
        {"image": np.zeros((0, 8, 8, 1), ">f4")},
        {"image": np.zeros((1, 8, 8, 1), np.float32), "key": np.array("text")},
        {"image": np.zeros((1, 8, 8, 1), np.float32), "key": np.array([[b"a"]])},
    ],
)
def test_inputs_that_fit(inputs: dict) -> None:
    check_inputs(IMAGE, inputs, where="m")


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (
            np.zeros((1, 7), np.float32),
            r"must have 4 dimensions \[\?, 8, 8, 1\], .* 2 dimensions \[1, 7\] was given",
        ),
        (np.zeros((1, 8, 9, 1), np.float32), r"dimension 2 is 9 instead of 8 in \[1, 8, 9, 1\]"),
        (
            np.zeros((1, 8, 8, 1)),
            r"must be DT_FLOAT, but DT_DOUBLE \(numpy float64\) was given\. Convert .*float32",
        ),
    ],
)
def test_inputs_that_do_not_fit_say_what_was_expected_and_given(image: np.ndarray, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        check_inputs(IMAGE, {"image": image}, where="m")


def change(**inputs: TensorSpec) -> dict[str, Signature]:
    return {"s": replace(IMAGE, inputs={**IMAGE.inputs, **inputs})}


@pytest.mark.parametrize(
    "found",
    [
        {"s": IMAGE},
        {"s": IMAGE, "more": HALF_PLUS_TWO},
        change(image=TensorSpec("DT_FLOAT", (None, None, None, 1), "other:0")),
        change(image=TensorSpec("DT_FLOAT", None)),
        {"s": replace(IMAGE, outputs={**IMAGE.outputs, "more": TensorSpec("DT_INT64", ())})},
        {"s": replace(IMAGE, outputs={"score": TensorSpec("DT_FLOAT", (1, 10))})},
        {"s": replace(change(new=TensorSpec("DT_BOOL", ()))["s"], optional=("key", "new"))},
    ],
)
def test_what_clients_do_not_notice_is_compatible(found: dict[str, Signature]) -> None:
    assert compatible({"s": IMAGE}, found) == ()


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"t": IMAGE}, "The signature 's' is gone; there are: t."),
        ({"s": replace(IMAGE, method_name="x")}, "has the method 'x' instead of 'tensorflow/serving/predict'"),
        ({"s": replace(IMAGE, inputs={"image": IMAGE.inputs["image"]})}, "no longer takes the input 'key'"),
        (change(new=TensorSpec("DT_BOOL", ())), "now needs the input 'new'"),
        ({"s": replace(IMAGE, optional=())}, "now needs the input 'key'"),
        (change(image=TensorSpec("DT_HALF", (None, 8, 8, 1))), "is DT_HALF [?, 8, 8, 1] instead of DT_FLOAT"),
        (change(image=TensorSpec("DT_FLOAT", (1, 8, 8, 1))), "is DT_FLOAT [1, 8, 8, 1] instead of DT_FLOAT [?, 8"),
        (change(image=TensorSpec("DT_FLOAT", (None, 64))), "is DT_FLOAT [?, 64] instead of"),
        (change(key=TensorSpec("DT_STRING", ())), "is DT_STRING [] instead of DT_STRING of any rank"),
        ({"s": replace(IMAGE, outputs={})}, "no longer gives the output 'score'"),
        (
            {"s": replace(IMAGE, outputs={"score": TensorSpec("DT_FLOAT", (None, 11))})},
            "output 'score' of",
        ),
        ({"s": replace(IMAGE, outputs={"score": TensorSpec("DT_FLOAT", None)})}, "of any rank instead of"),
    ],
)
def test_what_breaks_clients_is_one_sentence(found: dict[str, Signature], sentence: str) -> None:
    (difference,) = compatible({"s": IMAGE}, found)
    assert sentence in difference
    assert difference.endswith(".")
