"""Which requests to send: those of a file, those that a version carries, or one made up from the signature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import InvalidInput, NotFound
from tfs_deploy.names import plural
from tfs_deploy.savedmodel.requests import GOLDEN_PATH, GoldenRequest, parse_golden, read_golden
from tfs_deploy.serving.replies import Metadata
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE, Inputs, made_up_inputs
from tfs_deploy.store.protocol import Store


@dataclass(frozen=True, slots=True, eq=False)
class TrafficRequest:
    """Inputs for one signature; `source` names where they come from, as the first words of a sentence."""

    signature: str
    inputs: Inputs
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class RequestSet:
    """The requests of a run, and where they come from in words."""

    requests: tuple[TrafficRequest, ...]
    source: str


def choose_requests(metadata: Metadata, *, file: Path | None, store: Store | None) -> RequestSet:
    """Return the requests of `file`, or the version's own golden requests in `store`, or a made-up one.

    Raises InvalidInput for a file without a request and for a model that no request can be made up for, NotFound and
    CorruptModel for a file that cannot be used.
    """
    if file is not None:
        return _request_set(read_golden(file), f"file {str(file)!r}")
    stored = _stored_requests(store, metadata.model, metadata.version)
    if stored:
        return _request_set(stored, f"version {metadata.version} in the store")
    return _made_up(metadata)


def _request_set(golden: tuple[GoldenRequest, ...], source: str) -> RequestSet:
    if not golden:
        raise InvalidInput(f"The {source} holds no request.", "Record requests, for example with the gateway.")
    requests = tuple(
        TrafficRequest(request.signature, request.inputs, f"Request {number} of {source}")
        for number, request in enumerate(golden, start=1)
    )
    return RequestSet(requests, f"{plural(len(requests), 'recorded request')} of {source}")


def _stored_requests(store: Store | None, model: str, version: int) -> tuple[GoldenRequest, ...]:
    """Return the golden requests that the version carries; none where the store does not have the version."""
    if store is None:
        return ()
    try:
        manifest = store.manifest(model, version)
    except NotFound:
        return ()
    if not any(entry.path == GOLDEN_PATH for entry in manifest.files):
        return ()
    return parse_golden(store.read(model, version, GOLDEN_PATH), where=GOLDEN_PATH)


def _made_up(metadata: Metadata) -> RequestSet:
    names = sorted(metadata.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    for name in names:
        inputs = made_up_inputs(metadata.signatures[name])
        if inputs is not None:
            return RequestSet((TrafficRequest(name, inputs, "The made-up request"),), "a made-up request of zeros")
    raise InvalidInput(
        f"No request can be made up for model {metadata.model!r} version {metadata.version}: it has "
        f"{'inputs of a type that cannot be sent' if names else 'no signature'}.",
        "Give recorded requests with --requests FILE.",
    )
