"""The operations of a client: what it sends to a model server and how it reads the replies.

They are coroutines whose only I/O is `Send`, so the blocking client, the asyncio client and the in-memory fake of the
tests run the same code: a blocking `Send` never suspends, and `run_blocking` finishes such a coroutine in one step.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from google.protobuf.message import DecodeError

from tfs_deploy.clock import Clock, Deadline
from tfs_deploy.errors import CorruptModel, InvalidInput, NotFound, Permanent, SetupError
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, status
from tfs_deploy.serving.codec.predict import decode_predict_response, encode_predict_request
from tfs_deploy.serving.replies import Metadata, Prediction, VersionStatus
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, as_inputs, check_inputs, public_signatures

T = TypeVar("T")

_MAX_CACHED = 256  # (model, version or label) pairs; a long-lived client sees few at a time
_INT64 = range(-(2**63), 2**63)


class CallFailed(Exception):
    """An RPC ended with the gRPC status `code` (its name) and the server's `details`."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


# Sends the bytes of a request within some seconds and returns the bytes of the reply; raises CallFailed.
Send = Callable[[rpc.Method, bytes, float], Awaitable[bytes]]


def run_blocking(operation: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose `Send` blocks; raise RuntimeError if it suspends all the same."""
    try:
        operation.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    operation.close()
    raise RuntimeError("The operation of a blocking client was suspended.")


@dataclass(frozen=True, slots=True)
class Address:
    """A model and one of its versions: by number, by label, or (both None) the highest AVAILABLE one."""

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


@dataclass(frozen=True, slots=True)
class _Budget:
    """The seconds of one operation, which all its RPCs share."""

    seconds: float
    deadline: Deadline


class RpcCalls:
    """The operations on one model server; the signatures of its versions are cached."""

    def __init__(self, target: str, send: Send, clock: Clock) -> None:
        self._target = target
        self._send = send
        self._clock = clock
        self._metadata: dict[Address, Metadata] = {}
        self.closed = False

    async def status(self, address: Address, timeout: float) -> tuple[VersionStatus, ...]:
        """Ask for the states of all versions, or of one."""
        request = messages.GetModelStatusRequest(model_spec=address.spec())
        action = f"GetModelStatus for {address}"
        try:
            reply = await self._call(rpc.GET_MODEL_STATUS, request.SerializeToString(), action, self._budget(timeout))
        except NotFound:
            return ()
        return self._read(status.read_statuses, reply, action)

    async def metadata(self, address: Address, timeout: float) -> Metadata:
        """Ask for the signatures, and cache them."""
        return await self._fetch_metadata(address, self._budget(timeout))

    async def predict(
        self,
        address: Address,
        inputs: Mapping[str, object],
        signature: str,
        outputs: Sequence[str],
        timeout: float,
    ) -> Prediction:
        """Compare `inputs` with the signature and ask for the prediction; a moved label empties the cache."""
        budget = self._budget(timeout)
        name = signature or DEFAULT_SIGNATURE
        action = f"Predict on {address}"
        arrays = as_inputs(inputs)
        metadata = self._metadata.get(address)
        try:
            # The cached signature may be out of date: the label may have moved to a version that takes this request.
            if metadata is None or not _accepts(metadata, name, arrays, outputs):
                metadata = await self._fetch_metadata(address, budget)
                _check_request(metadata, name, arrays, outputs)
            reply = await self._call(
                rpc.PREDICT, encode_predict_request(address.spec(name), arrays, outputs), action, budget
            )
        except Permanent:
            self._metadata.pop(address, None)
            raise
        spec, answers = self._read(decode_predict_response, reply, action)
        version = self._read_version(address, spec, action)
        if version != metadata.version:
            self._metadata.pop(address, None)
        return Prediction(address.model, version, spec.signature_name or name, answers)

    async def reload(self, config: Any, timeout: float) -> None:
        """Ask the server to replace its configuration."""
        request = messages.ReloadConfigRequest()
        try:
            # As bytes, because the message may belong to another descriptor pool.
            request.config.MergeFromString(config.SerializeToString())
        except (AttributeError, DecodeError) as error:
            raise InvalidInput(
                f"A {type(config).__name__} is not a ModelServerConfig.", "Make one with serving.config.to_proto()."
            ) from error
        action = rpc.HANDLE_RELOAD_CONFIG.name
        reply = await self._call(rpc.HANDLE_RELOAD_CONFIG, request.SerializeToString(), action, self._budget(timeout))
        self._metadata.clear()
        status = self._read(_reload_status, reply, action)
        if status.error_code:
            code = messages.enum_names("tensorflow.error.Code").get(status.error_code, str(status.error_code))
            raise rpc.to_error(code, status.error_message, target=self._target, action=action, timeout=0)

    def _budget(self, timeout: float) -> _Budget:
        """Return the time of one operation; raise InvalidInput unless `timeout` is a positive number of seconds."""
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InvalidInput(f"The timeout {timeout!r} is not usable.", "Give a positive number of seconds.")
        return _Budget(float(timeout), Deadline.after(float(timeout), self._clock))

    async def _call(self, method: rpc.Method, request: bytes, action: str, budget: _Budget) -> bytes:
        """Return the reply to one RPC; `action` describes it in error messages."""
        if self.closed:
            raise InvalidInput(f"The client for {self._target} was closed before {action}.", "Connect again.")
        try:
            remaining = budget.deadline.remaining()
            if remaining <= 0:
                raise CallFailed("DEADLINE_EXCEEDED", "")
            return await self._send(method, request, remaining)
        except CallFailed as error:
            left = budget.deadline.remaining()
            if (
                error.code == "DEADLINE_EXCEEDED"
                and method is not rpc.HANDLE_RELOAD_CONFIG
                and left > budget.seconds / 2
            ):
                raise rpc.ended_early(error.details, target=self._target, action=action, left=left) from error
            raise rpc.to_error(
                error.code, error.details, target=self._target, action=action, timeout=budget.seconds
            ) from error

    async def _fetch_metadata(self, address: Address, budget: _Budget) -> Metadata:
        request = messages.GetModelMetadataRequest(model_spec=address.spec(), metadata_field=["signature_def"])
        action = f"GetModelMetadata for {address}"
        reply = await self._call(rpc.GET_MODEL_METADATA, request.SerializeToString(), action, budget)
        response = self._read(messages.GetModelMetadataResponse.FromString, reply, action)
        version = self._read_version(address, response.model_spec, action)
        metadata = Metadata(address.model, version, self._read(_signatures, response, action))
        if len(self._metadata) >= _MAX_CACHED:
            self._metadata.clear()
        self._metadata[address] = metadata
        return metadata

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
        raise SetupError(
            f"The model server at {self._target} answered {action} with a reply that cannot be used: "
            f"{why.rstrip('.')}.",
            "Check that the target is a TensorFlow Serving gRPC port and that its version fits this client.",
            code="DATA_LOSS",
        )


def _check_text(field: str, text: object) -> None:
    try:
        if isinstance(text, str) and (text.encode() or field == "label"):
            return
    except UnicodeEncodeError:
        pass
    raise InvalidInput(f"The {field} {text!r} is not usable.", "Give a non-empty text.")


def _signature(metadata: Metadata, name: str) -> Signature:
    signature = metadata.signatures.get(name)
    if signature is None:
        raise NotFound(
            f"Model {metadata.model!r} version {metadata.version} has no signature {name!r}.",
            f"Use one of: {', '.join(sorted(metadata.signatures)) or '(it has none)'}.",
        )
    return signature


def _check_request(metadata: Metadata, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> None:
    signature = _signature(metadata, name)
    where = f"signature {name!r} of model {metadata.model!r} version {metadata.version}"
    check_inputs(signature, inputs, where=where)
    if isinstance(outputs, str) or len(set(outputs)) != len(outputs) or not set(outputs) <= signature.outputs.keys():
        raise InvalidInput(
            f"The outputs {outputs!r} are not a choice from {where}.",
            f"Name each at most once: {', '.join(sorted(signature.outputs))}.",
        )


def _accepts(metadata: Metadata, name: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> bool:
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
