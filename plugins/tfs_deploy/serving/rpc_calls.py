"""What a client says to a model server and what it makes of the replies, without any I/O.

Every operation is a generator: it yields the `Call`s to make, is sent the reply's bytes (or thrown the error of
`tfs_deploy.errors` that the call ended with) and returns the result. The sync client, the asyncio client and the
in-memory fake of the tests drive the same generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from google.protobuf.message import DecodeError

from tfs_deploy.errors import CorruptModel, InvalidInput, ModelServerError, NotFound, Permanent, TFSDeployError
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, status
from tfs_deploy.serving.codec.predict import decode_predict_response, encode_predict_request
from tfs_deploy.serving.protocol import Metadata, Prediction, VersionStatus
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, as_inputs, check_inputs, public_signatures

T = TypeVar("T")

_MAX_CACHED = 256  # (model, version or label) pairs; a long-lived client sees few at a time
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC to make: `action` describes it in error messages."""

    method: rpc.Method
    request: bytes
    action: str


Exchange = Generator[Call, bytes, T]


@dataclass(frozen=True, slots=True)
class Address:
    """Which model, and which version of it: by number, by label, or (both None) the highest AVAILABLE one."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        _check_text("model name", self.model)
        if self.version is not None and self.label is not None:
            raise InvalidInput(
                f"Both version {self.version} and label {self.label!r} of model {self.model!r} were named.",
                "Name one of them.",
            )
        if self.label is not None:
            _check_text("label", self.label)
        if self.version is not None and (
            not isinstance(self.version, int) or isinstance(self.version, bool) or self.version not in _INT64
        ):
            raise InvalidInput(f"The version {self.version!r} is not a 64-bit int.", "Use a version number.")

    def __str__(self) -> str:
        if self.version is not None:
            return f"model {self.model!r} version {self.version}"
        if self.label is not None:
            return f"model {self.model!r} label {self.label!r}"
        return f"model {self.model!r}"

    def spec(self, signature: str = "") -> Any:
        """Return the ModelSpec."""
        spec = messages.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec


class RpcCalls:
    """The operations on one model server, with a memory of the signatures seen."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._known: dict[Address, Metadata] = {}

    def status(self, address: Address) -> Exchange[tuple[VersionStatus, ...]]:
        """Ask for the states of all versions, or of one."""
        request = messages.GetModelStatusRequest(model_spec=address.spec())
        try:
            reply = yield Call(rpc.GET_MODEL_STATUS, request.SerializeToString(), f"GetModelStatus for {address}")
        except NotFound:
            return ()
        return self._read(status.read_statuses, reply, f"GetModelStatus for {address}")

    def metadata(self, address: Address) -> Exchange[Metadata]:
        """Ask for the signatures, and remember them."""
        request = messages.GetModelMetadataRequest(model_spec=address.spec(), metadata_field=["signature_def"])
        action = f"GetModelMetadata for {address}"
        reply = yield Call(rpc.GET_MODEL_METADATA, request.SerializeToString(), action)
        response = self._read(messages.GetModelMetadataResponse.FromString, reply, action)
        version = self._read_version(address, response.model_spec, action)
        found = Metadata(address.model, version, self._read(_signatures, response, action))
        self._remember(address, found)
        return found

    def predict(
        self,
        address: Address,
        inputs: Mapping[str, object],
        signature: str,
        outputs: Sequence[str],
    ) -> Exchange[Prediction]:
        """Compare `inputs` with the signature, ask for the prediction, and notice when a label has moved."""
        name = signature or DEFAULT_SIGNATURE
        action = f"Predict on {address}"
        arrays = as_inputs(inputs)
        metadata = self._known.get(address)
        try:
            if metadata is None:
                metadata = yield from self.metadata(address)
                _check_request(metadata, name, arrays, outputs)
            elif not _fits(metadata, name, arrays, outputs):
                # The label may have moved to a version that takes this.
                metadata = yield from self.metadata(address)
                _check_request(metadata, name, arrays, outputs)
            reply = yield Call(rpc.PREDICT, encode_predict_request(address.spec(name), arrays, outputs), action)
        except Permanent:
            self._known.pop(address, None)
            raise
        spec, answers = self._read(decode_predict_response, reply, action)
        version = self._read_version(address, spec, action)
        if version != metadata.version:
            self._known.pop(address, None)
        return Prediction(address.model, version, spec.signature_name or name, answers)

    def reload(self, config: Any) -> Exchange[None]:
        """Ask the server to replace its configuration."""
        request = messages.ReloadConfigRequest()
        try:
            # By way of bytes, so that a message of another descriptor pool is welcome too.
            request.config.MergeFromString(config.SerializeToString())
        except (AttributeError, DecodeError) as error:
            raise InvalidInput(
                f"A {type(config).__name__} is not a ModelServerConfig.", "Make one with serving.config.to_proto()."
            ) from error
        action = rpc.HANDLE_RELOAD_CONFIG.name
        reply = yield Call(rpc.HANDLE_RELOAD_CONFIG, request.SerializeToString(), action)
        self._known.clear()
        status = self._read(_reload_status, reply, action)
        if status.error_code:
            code = messages.enum_names("tensorflow.error.Code").get(status.error_code, str(status.error_code))
            raise rpc.to_error(code, status.error_message, target=self._target, action=action, timeout=0)

    def _remember(self, address: Address, metadata: Metadata) -> None:
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        self._known[address] = metadata

    def _read_version(self, address: Address, spec: Any, action: str) -> int:
        if not spec.HasField("version"):
            self._unreadable(action, "the reply does not say which version answered")
        version: int = spec.version.value
        if address.version is not None and version != address.version:
            self._unreadable(action, f"version {version} answered instead of {address.version}")
        return version

    def _read(self, read: Callable[[Any], T], reply: Any, action: str) -> T:
        try:
            return read(reply)
        except (CorruptModel, DecodeError) as error:
            self._unreadable(action, error.cause if isinstance(error, CorruptModel) else str(error))

    def _unreadable(self, action: str, why: str) -> NoReturn:
        raise ModelServerError(
            f"The model server at {self._target} answered {action} with a reply that cannot be used: "
            f"{why.rstrip('.')}.",
            "Check that the target is a TensorFlow Serving gRPC port and that its version fits this client.",
            code="DATA_LOSS",
        )


def call_error(target: str, call: Call, code: str, details: str, timeout: float) -> TFSDeployError:
    """Return the error for a `call` to `target` that ended with the gRPC status `code`."""
    return rpc.to_error(code, details, target=target, action=call.action, timeout=timeout)


def closed_error(target: str, call: Call) -> TFSDeployError:
    """Return the error for a `call` on a client that was closed."""
    return InvalidInput(f"The client for {target} was closed before {call.action}.", "Connect again.")


def check_timeout(timeout: float) -> float:
    """Return `timeout` if it is a positive number of seconds; raise InvalidInput otherwise."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise InvalidInput(f"The timeout {timeout!r} is not usable.", "Give a positive number of seconds.")
    return float(timeout)


def _check_text(what: str, text: object) -> None:
    try:
        if isinstance(text, str) and (text.encode() or what == "label"):
            return
    except UnicodeEncodeError:
        pass
    raise InvalidInput(f"The {what} {text!r} is not usable.", "Give a non-empty text.")


def _signature(metadata: Metadata, name: str) -> Signature:
    found = metadata.signatures.get(name)
    if found is None:
        raise NotFound(
            f"Model {metadata.model!r} version {metadata.version} has no signature {name!r}.",
            f"Use one of: {', '.join(sorted(metadata.signatures)) or '(it has none)'}.",
        )
    return found


def _check_request(metadata: Metadata, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> None:
    signature = _signature(metadata, name)
    where = f"signature {name!r} of model {metadata.model!r} version {metadata.version}"
    check_inputs(signature, inputs, where=where)
    if isinstance(outputs, str) or len(set(outputs)) != len(outputs) or not set(outputs) <= signature.outputs.keys():
        raise InvalidInput(
            f"The outputs {outputs!r} are not a choice from {where}.",
            f"Name each at most once: {', '.join(sorted(signature.outputs))}.",
        )


def _fits(metadata: Metadata, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> bool:
    try:
        _check_request(metadata, name, inputs, outputs)
    except (InvalidInput, NotFound):
        return False
    return True


def _signatures(response: Any) -> dict[str, Signature]:
    if "signature_def" not in response.metadata:
        raise CorruptModel("the reply has no signatures", "")
    signatures = messages.SignatureDefMap.FromString(response.metadata["signature_def"].value)
    return public_signatures(signatures.signature_def)


def _reload_status(reply: bytes) -> Any:
    return messages.ReloadConfigResponse.FromString(reply).status
