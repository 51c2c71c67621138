"""GetModelMetadata and GetModelStatus: contract 20.2 and 20.3."""

from __future__ import annotations

import pytest

from modelserver.wire import Wire, model, wait_state
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def loaded(server, models, model_root):
    base = model_root / "metadata"
    base.mkdir()
    for version in (2, 3):
        (base / str(version)).symlink_to(models / f"scale{version}")
    wire = Wire(server.target)
    wire.reload(model("metadata", base, 2, 3))
    for version in (2, 3):
        wait_state(wire, "metadata", version, "AVAILABLE")
    wire.reload(model("metadata", base, 2, 3, labels={"stable": 3}))
    yield wire
    wire.reload()
    wire.close()


def metadata_request(name: str, *fields: str, **spec):
    return messages.GetModelMetadataRequest(model_spec={"name": name, **spec}, metadata_field=fields)


def test_metadata_serves_the_signatures_of_the_file(loaded, models):
    reply = loaded.call(rpc.GET_MODEL_METADATA, metadata_request("metadata", "signature_def", version_label="stable"))
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("metadata", 3)
    assert not reply.model_spec.signature_name
    found = messages.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(found)
    saved = messages.SavedModel.FromString((models / "scale3" / "saved_model.pb").read_bytes())
    assert dict(found.signature_def) == dict(saved.meta_graphs[0].signature_def)
    assert "__saved_model_init_op" in found.signature_def


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (metadata_request("", "signature_def"), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (
            metadata_request("metadata", "signature_def", "foo"),
            "INVALID_ARGUMENT",
            "Metadata field foo is not supported",
        ),
        (
            metadata_request("metadata", "signature_def", version={"value": 9}),
            "NOT_FOUND",
            "Servable not found for request: Specific(metadata, 9)",
        ),
        (
            metadata_request("metadata"),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("metadata", "foo"), "INVALID_ARGUMENT", "Metadata field foo is not supported"),
        (metadata_request("nope", "signature_def"), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        (
            metadata_request("metadata", "signature_def", version_label="zz"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: zz",
        ),
    ],
)
def test_metadata_errors(loaded, request_, code, text):
    assert loaded.error(rpc.GET_MODEL_METADATA, request_) == (code, text)


def status_request(**spec):
    return messages.GetModelStatusRequest(model_spec=spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, [(3, 30), (2, 30)]),
        ({"version_label": "unknown"}, [(3, 30), (2, 30)]),
        ({"signature_name": "unknown"}, [(3, 30), (2, 30)]),
        ({"version": {"value": 2}}, [(2, 30)]),
    ],
)
def test_status_ignores_labels_and_is_newest_first(loaded, spec, expected):
    reply = loaded.call(rpc.GET_MODEL_STATUS, status_request(name="metadata", **spec))
    assert [(row.version, row.state) for row in reply.model_version_status] == expected
    assert all(row.status.error_code == 0 and not row.status.error_message for row in reply.model_version_status)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (messages.GetModelStatusRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (status_request(name="nope"), "NOT_FOUND", "Could not find any versions of model nope"),
        (status_request(name=""), "NOT_FOUND", "Could not find any versions of model "),
        (
            status_request(name="metadata", version={"value": 9}),
            "NOT_FOUND",
            "Could not find version 9 of model metadata",
        ),
    ],
)
def test_status_errors(loaded, request_, code, text):
    assert loaded.error(rpc.GET_MODEL_STATUS, request_) == (code, text)
