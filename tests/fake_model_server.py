"""A model server in memory: TF Serving's rules on versions, states, labels and reloads, and its messages."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfs_deploy.savedmodel.placeholder import MESSAGE, is_placeholder
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages, tensors
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

Arrays = dict[str, np.ndarray]

HALF_PLUS_TWO = Signature(
    inputs={"x": TensorSpec("DT_FLOAT", (None,), "serving_default_x:0")},
    outputs={"y": TensorSpec("DT_FLOAT", (None,), "StatefulPartitionedCall:0")},
    method_name="tensorflow/serving/predict",
)
_INIT = Signature(inputs={}, outputs={"__saved_model_init_op": TensorSpec("DT_INVALID", None, "NoOp")}, method_name="")
_STATES = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}


def half_plus_two(inputs: Arrays) -> Arrays:
    """Return y = x / 2 + 2."""
    return {"y": (inputs["x"] / 2 + 2).astype(np.float32)}


@dataclass(frozen=True)
class FakeVersion:
    """What one version directory holds; `broken` is the message that its load ends with."""

    function: Callable[[Arrays], Arrays] = half_plus_two
    signatures: dict[str, Signature] = field(default_factory=lambda: {DEFAULT_SIGNATURE: HALF_PLUS_TWO})
    broken: str | bytes | None = None
    error_code: str = "NOT_FOUND"


def _first_version_is_loading(inputs: Arrays) -> Arrays:
    raise FakeRpcError("INVALID_ARGUMENT", MESSAGE)


_PLACEHOLDER = FakeVersion(function=_first_version_is_loading)


class FakeRpcError(Exception):
    """What a call on the fake server ends with instead of a reply."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


class FakeModelServer:
    """One model server in memory.

    * Files: `put(base_path, version, FakeVersion(...))`; directories with integer names below a base path that exists
      on this machine count too and become what `discover(path)` returns.
    * Time: with `immediate` every reload settles at once (all versions END or AVAILABLE). Otherwise `tick()` moves
      every version one state on: START, LOADING, AVAILABLE; UNLOADING, END.
    * Reload: labels are checked first, against the states before the reload; a label on a version that is not
      AVAILABLE refuses the whole config, except (`allow_labels_for_unavailable`, the server's flag) one that is new
      or keeps its value. A new model name is waited for; a model left out unloads.
    * A failed version is END with its error and is not tried again while it stays aspired. An AVAILABLE version that is
      no longer wanted stays until a wanted one is AVAILABLE.
    * Faults: `unreachable = True`; `fail_next("Predict", "INTERNAL", "boom")`; `busy_share = 0.95` answers that share
      of all RPCs, chosen by a seeded generator, with one of `busy_answers`.
    * `requests` lists (method name, request message) of everything that was asked.
    """

    def __init__(
        self,
        target: str = "fake-server:8500",
        *,
        immediate: bool = True,
        allow_labels_for_unavailable: bool = True,
        discover: Callable[[Path], FakeVersion] | None = None,
    ) -> None:
        self.target = target
        self.immediate = immediate
        self.allow_labels_for_unavailable = allow_labels_for_unavailable
        self.unreachable = False
        self.busy_share = 0.0
        self.busy_answers = [("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted")]
        self._random = random.Random(0)
        self.requests: list[tuple[str, Any]] = []
        self.labels: dict[str, dict[str, int]] = {}
        self.config: Any = messages.ModelServerConfig()
        self._discover = discover or (lambda path: FakeVersion())
        self._files: dict[str, dict[int, FakeVersion]] = {}
        self._loaded: dict[tuple[str, int], FakeVersion] = {}
        self._states: dict[tuple[str, int], tuple[str, str, str | bytes]] = {}
        self._failed: set[tuple[str, int]] = set()
        self._faults: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        self._answers = {
            "Predict": self._predict,
            "GetModelMetadata": self._metadata,
            "GetModelStatus": self._status,
            "HandleReloadConfigRequest": self._reload,
        }

    def put(self, base_path: str | Path, version: int, content: FakeVersion | None = None) -> None:
        """Let `version` appear below `base_path`."""
        self._files.setdefault(str(base_path), {})[version] = content or FakeVersion()

    def remove(self, base_path: str | Path, version: int) -> None:
        """Let `version` disappear from `base_path`."""
        self._files[str(base_path)].pop(version)

    def fail_next(self, method: str, code: str, details: str = "", times: int = 1) -> None:
        """Let the next `times` calls of `method` end with the gRPC status `code`."""
        self._faults.extend([(method, code, details)] * times)

    def state(self, model: str, version: int) -> str | None:
        """Return the state's name, e.g. ``AVAILABLE``; None if the server has never heard of it."""
        row = self._states.get((model, version))
        return row and row[0]

    def restart(self) -> None:
        """Forget all states, then load the configuration again, as a process that starts on its config file does."""
        with self._lock:
            self._states.clear()
            self._loaded.clear()
            self._failed.clear()
            self._settle()

    def tick(self) -> bool:
        """Move every version one state on; tell whether anything moved."""
        with self._lock:
            moved = [self._move(model) for model in self._models()]
            return any(moved)

    def handle(self, method: rpc.Method, request: bytes) -> bytes:
        """Answer one call; raise FakeRpcError as gRPC would deliver an error."""
        with self._lock:
            if self.unreachable:
                raise FakeRpcError("UNAVAILABLE", "failed to connect to all addresses; connection refused")
            message = method.request_class.FromString(request)
            self.requests.append((method.name, message))
            if self._random.random() < self.busy_share:
                raise FakeRpcError(*self._random.choice(self.busy_answers))
            for fault in self._faults:
                if fault[0] == method.name:
                    self._faults.remove(fault)
                    raise FakeRpcError(*fault[1:])
            if method.name not in self._answers:
                raise FakeRpcError("UNIMPLEMENTED", "Method not found!")
            reply = self._answers[method.name](message)
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

    # --- states -----------------------------------------------------------------------------------------------------

    def _models(self) -> list[str]:
        configured = [model.name for model in self.config.model_config_list.config]
        return configured + sorted({name for name, _ in self._states} - set(configured))

    def _found(self, base_path: str) -> dict[int, FakeVersion]:
        found: dict[int, FakeVersion] = {}
        if Path(base_path).is_dir():
            for child in Path(base_path).iterdir():
                if child.name.lstrip("-").isdecimal():
                    found[int(child.name)] = _PLACEHOLDER if is_placeholder(child) else self._discover(child)
        return found | self._files.get(base_path, {})

    def _aspired(self, model: str) -> dict[int, FakeVersion]:
        for entry in self.config.model_config_list.config:
            if entry.name == model:
                found = self._found(entry.base_path)
                policy = entry.model_version_policy
                if policy.WhichOneof("policy_choice") == "specific":
                    return {version: found[version] for version in policy.specific.versions if version in found}
                if policy.WhichOneof("policy_choice") == "all":
                    return found
                return {version: found[version] for version in sorted(found)[-(policy.latest.num_versions or 1) :]}
        return {}

    def _move(self, model: str) -> bool:
        aspired = self._aspired(model)
        before = {version: row[0] for (name, version), row in self._states.items() if name == model}
        self._failed -= {key for key in self._failed if key[0] == model and key[1] not in aspired}
        covered = not aspired or any(before.get(version) == "AVAILABLE" for version in aspired)
        for version, content in aspired.items():
            self._advance(model, version, content, before.get(version))
        for version in before.keys() - aspired.keys():
            self._retreat(model, version, before[version], covered)
        return before != {version: row[0] for (name, version), row in self._states.items() if name == model}

    def _advance(self, model: str, version: int, content: FakeVersion, state: str | None) -> None:
        key = (model, version)
        if state is None or (state == "END" and key not in self._failed):
            self._states[key] = ("START", "OK", "")
        elif state == "START":
            self._states[key] = ("LOADING", "OK", "")
        elif state == "LOADING" and content.broken is not None:
            self._states[key] = ("END", content.error_code, content.broken)
            self._failed.add(key)
        elif state == "LOADING":
            self._states[key] = ("AVAILABLE", "OK", "")
            self._loaded[key] = content

    def _retreat(self, model: str, version: int, state: str, covered: bool) -> None:
        key = (model, version)
        if state in ("START", "LOADING"):
            self._states[key] = ("END", "CANCELLED", "")
        elif state == "AVAILABLE" and covered:
            self._states[key] = ("UNLOADING", "OK", "")
            self._loaded.pop(key)
        elif state == "UNLOADING":
            self._states[key] = ("END", "OK", "")

    def _settle(self) -> None:
        while self.tick():
            pass

    def _resolve(self, spec: Any) -> int:
        if not spec.name:
            raise FakeRpcError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            loaded = [version for name, version in self._loaded if name == spec.name]
            if not loaded:
                raise FakeRpcError("NOT_FOUND", f"Servable not found for request: Latest({spec.name})")
            return max(loaded)
        if choice == "version_label":
            version = self.labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise FakeRpcError("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label}")
        else:
            version = spec.version.value
        if (spec.name, version) not in self._loaded:
            raise FakeRpcError("NOT_FOUND", f"Servable not found for request: Specific({spec.name}, {version})")
        return version

    # --- answers ----------------------------------------------------------------------------------------------------

    def _status(self, request: Any) -> bytes:
        spec = request.model_spec
        rows = {version: row for (name, version), row in self._states.items() if name == spec.name}
        if not rows:
            raise FakeRpcError("NOT_FOUND", f"Could not find any versions of model {spec.name}")
        if spec.HasField("version"):
            if spec.version.value not in rows:
                raise FakeRpcError("NOT_FOUND", f"Could not find version {spec.version.value} of model {spec.name}")
            rows = {spec.version.value: rows[spec.version.value]}
        codes = {name: number for number, name in messages.enum_names("tensorflow.error.Code").items()}
        reply = b""
        for version in sorted(rows, reverse=True):
            state, code, text = rows[version]
            row = messages.ModelVersionStatus(version=version, state=_STATES[state])
            # By hand, because a server of C++ also sends text that is not UTF-8.
            raw = text.encode() if isinstance(text, str) else text
            status = messages.StatusProto(error_code=codes[code]).SerializeToString() + (_field(2, raw) if raw else b"")
            reply += _field(1, row.SerializeToString() + _field(3, status))
        return reply

    def _metadata(self, request: Any) -> Any:
        version = self._resolve(request.model_spec)
        if list(request.metadata_field) != ["signature_def"]:
            raise FakeRpcError("INVALID_ARGUMENT", "Metadata field is not supported")
        found = messages.SignatureDefMap()
        content = self._loaded[(request.model_spec.name, version)]
        for name, signature in {**content.signatures, "__saved_model_init_op": _INIT}.items():
            found.signature_def[name].CopyFrom(signature_def(signature))
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(found)
        return response

    def _predict(self, request: Any) -> Any:
        spec = request.model_spec
        version = self._resolve(spec)
        name = spec.signature_name or DEFAULT_SIGNATURE
        content = self._loaded[(spec.name, version)]
        if name not in content.signatures:
            raise FakeRpcError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        signature = content.signatures[name]
        inputs = {alias: tensors.to_array(proto) for alias, proto in request.inputs.items()}
        if inputs.keys() != signature.inputs.keys() - (set(signature.optional) - inputs.keys()):
            raise FakeRpcError("INVALID_ARGUMENT", "input size does not match signature")
        for alias, array in inputs.items():
            if tensors.dtype_name(array) != signature.inputs[alias].dtype:
                raise FakeRpcError("INVALID_ARGUMENT", f"Expects arg[0] to be {signature.inputs[alias].dtype}")
        outputs = content.function(inputs)
        response = messages.PredictResponse()
        response.model_spec.CopyFrom(messages.ModelSpec(name=spec.name, signature_name=name))
        response.model_spec.version.value = version
        for alias in request.output_filter or sorted(outputs):
            if alias not in outputs:
                raise FakeRpcError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {alias}")
            response.outputs[alias].CopyFrom(_typed_list(outputs[alias]))
        return response

    def _reload(self, request: Any) -> Any:
        config = request.config
        if config.WhichOneof("config") != "model_config_list":
            raise FakeRpcError(
                "INVALID_ARGUMENT",
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported",
            )
        entries = list(config.model_config_list.config)
        _check_entries(entries)
        self._check_labels(entries)
        known = {entry.name for entry in self.config.model_config_list.config}
        self.labels = {entry.name: dict(entry.version_labels) for entry in entries}
        self.config = messages.ModelServerConfig.FromString(config.SerializeToString())
        for entry in entries:
            if entry.name not in known:
                self._wait_for(entry.name)
        if self.immediate:
            self._settle()
        return messages.ReloadConfigResponse()

    def _check_labels(self, entries: list[Any]) -> None:
        for entry in entries:
            for label, version in entry.version_labels.items():
                held = self.labels.get(entry.name, {}).get(label)
                excused = self.allow_labels_for_unavailable and held in (None, version)
                if self.state(entry.name, version) != "AVAILABLE" and not excused:
                    raise FakeRpcError(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {version} of model {entry.name}, "
                        "which is not currently available for inference",
                    )

    def _wait_for(self, model: str) -> None:
        if not self._aspired(model):
            raise FakeRpcError("DEADLINE_EXCEEDED", "")  # a real server waits for ever
        while self._move(model) and not any(key[0] == model for key in self._loaded):
            pass
        ends = [(key[1], row) for key, row in self._states.items() if key[0] == model and row[0] == "END" and row[2]]
        if ends and not any(key[0] == model for key in self._loaded):
            version, (_, code, text) = ends[0]
            raise FakeRpcError(
                "UNKNOWN",
                f"1 model(s) did not become available: {{{{{{name: {model} version: {version}}} "
                f"due to error: {code}: {text!r}}}, }}",
            )


def signature_def(signature: Signature) -> Any:
    """Return the SignatureDef message of `signature`."""
    proto = messages.SignatureDef(method_name=signature.method_name)
    for specs, infos in ((signature.inputs, proto.inputs), (signature.outputs, proto.outputs)):
        for alias, spec in specs.items():
            info = infos[alias]
            info.name = spec.name
            info.dtype = tensors.dtype_number(spec.dtype)
            if spec.shape is None:
                info.tensor_shape.unknown_rank = True
            else:
                info.tensor_shape.SetInParent()
                for size in spec.shape:
                    info.tensor_shape.dim.add(size=-1 if size is None else size)
    for alias in signature.optional:
        proto.defaults[alias].SetInParent()
    return proto


def _typed_list(array: np.ndarray) -> Any:
    """Return the TensorProto as a stock model server writes it: float32 as float_val, not as content."""
    if array.dtype != np.float32:
        return tensors.to_proto(array)
    typed = tensors.tensor_head(array)
    typed.float_val.extend(array.reshape(-1).tolist())
    return typed


def _check_entries(entries: list[Any]) -> None:
    for entry in entries:
        if [each.name for each in entries].count(entry.name) > 1:
            raise FakeRpcError("INVALID_ARGUMENT", f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.base_path.startswith("/"):
            raise FakeRpcError(
                "INVALID_ARGUMENT",
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}",
            )
        if entry.model_platform != "tensorflow":
            raise FakeRpcError(
                "INVALID_ARGUMENT", f"Model {entry.name} requests unsupported platform {entry.model_platform}"
            )


def _field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size, varint = len(payload), bytearray()
    while size > 0x7F:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    varint.append(size)
    return bytes([number << 3 | 2]) + bytes(varint) + payload
