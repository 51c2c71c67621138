"""One attempt of a request: resolve the label at one replica, check the inputs, call Predict by version number.

Nothing is sent that does not fit the version's signature: TF Serving does not compare shapes, and one input of a wrong
rank can end its process (contract 20.1). For the same reason nothing is sent for an input of unknown rank, unless the
configuration gives the rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Literal

from tfs_deploy.clock import Clock
from tfs_deploy.errors import (
    Busy,
    DeadlineExceeded,
    InvalidInput,
    ModelServerError,
    NotFound,
    TFSDeployError,
    Unreachable,
)
from tfs_deploy.gateway.problem import Problem, bad_upstream, unusable
from tfs_deploy.gateway.upstream.answer import Answer, Arrays
from tfs_deploy.gateway.upstream.replica import Replica
from tfs_deploy.serving.replies import Metadata, Prediction
from tfs_deploy.serving.signature import Signature, TensorSpec, check_inputs

# Texts of gRPC's core without a connection. After any other error of a connection the request may have run.
_NEVER_RAN = re.compile(r"failed to connect|name resolution|DNS resolution", re.I | re.S)
_LOST_CODES = {"CANCELLED", "ABORTED"}
# After an input that does not fit, the label is read again, but not twice within this time: otherwise clients could
# make the gateway query the model servers at any rate.
MIN_REFRESH_SECONDS = 0.05


class FailureKind(Enum):
    """What a failed attempt means for its request."""

    REFUSED = "refused"
    """The request did not run; any other replica may get it."""
    ABSENT = "absent"
    """The replica does not serve the model under this label, or no longer serves the version."""
    LOST = "lost"
    """The connection ended while the replica had the request, and perhaps because of it."""
    FINAL = "final"
    """The error is one that every replica would give, or the deadline has passed."""


def failure_kind(error: TFSDeployError) -> FailureKind:
    """Return the kind of failure that `error` means."""
    if isinstance(error, Unreachable):
        return FailureKind.REFUSED if _NEVER_RAN.search(error.cause) else FailureKind.LOST
    if isinstance(error, NotFound):
        return FailureKind.ABSENT
    if isinstance(error, (Busy, ModelServerError)):
        if error.code == "UNAVAILABLE":  # a full batching queue, no TLS, or no gRPC: nothing ran
            return FailureKind.REFUSED
        if error.code in _LOST_CODES:
            return FailureKind.LOST
    return FailureKind.FINAL


class Guard:
    """Checks inputs against the signature of a version; `ranks` fills in ranks that the signature leaves open."""

    def __init__(
        self,
        signature: str,
        outputs: Sequence[str] = (),
        ranks: Mapping[str, int | Literal["any"]] | None = None,
    ) -> None:
        self._name = signature
        self._outputs = tuple(outputs)
        self._ranks = dict(ranks or {})

    def check(self, metadata: Metadata, arrays: Arrays) -> None:
        """Raise Problem unless `arrays` fit the version of `metadata` in names, dtypes, ranks and known dimensions."""
        signature = self._signature(metadata)
        where = f"signature {self._name!r} of model {metadata.model!r} version {metadata.version}"
        try:
            check_inputs(signature, arrays, where=where)
        except InvalidInput as error:
            raise unusable(str(error)) from error
        for alias, array in arrays.items():
            if array.ndim and not array.size:
                raise unusable(f"The input {alias!r} of {where} is empty: its shape is {list(array.shape)}.")
            if signature.inputs[alias].shape is None:
                self._check_rank(metadata, alias, array.ndim)

    def rows(self, metadata: Metadata, arrays: Arrays) -> int | None:
        """Return the number of rows in `arrays`; None where they cannot be joined with rows of other requests.

        They can be joined where the first dimension of every input and output is open: it is the batch dimension.
        """
        if not self.batched(metadata):
            return None
        counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        return counts.pop() or None if len(counts) == 1 else None

    def batched(self, metadata: Metadata) -> bool:
        """Return whether every input and output of the version has a batch dimension."""
        signature = metadata.signatures.get(self._name)
        return signature is not None and bool(signature.inputs) and self._all_batched(signature)

    def _all_batched(self, signature: Signature) -> bool:
        outputs = self._outputs or signature.outputs
        specs = [
            *signature.inputs.values(),
            *(signature.outputs[name] for name in outputs if name in signature.outputs),
        ]
        return all(_has_batch_dimension(spec) for spec in specs)

    def _signature(self, metadata: Metadata) -> Signature:
        signature = metadata.signatures.get(self._name)
        if signature is None:
            raise self._mismatch(metadata, f"has no signature {self._name!r}")
        missing = sorted(set(self._outputs) - signature.outputs.keys())
        if missing:
            raise self._mismatch(metadata, f"has no output {missing[0]!r} in signature {self._name!r}")
        return signature

    def _check_rank(self, metadata: Metadata, alias: str, rank: int) -> None:
        expected = self._ranks.get(alias)
        if expected is None:
            raise bad_upstream(
                f"The signature of model {metadata.model!r} version {metadata.version} leaves the rank of its input "
                f"{alias!r} open; set `ranks` in the gateway's configuration."
            )
        if expected not in (rank, "any"):
            raise unusable(
                f"The input {alias!r} of model {metadata.model!r} must have {expected} dimensions, "
                f"but the array has {rank}."
            )

    def _mismatch(self, metadata: Metadata, reason: str) -> Problem:
        return bad_upstream(
            f"Model {metadata.model!r} version {metadata.version} {reason}, which the gateway asks for."
        )


def _has_batch_dimension(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] is None


class AttemptFailed(Exception):
    """An attempt that ended without an answer."""

    def __init__(self, kind: FailureKind, error: TFSDeployError) -> None:
        super().__init__(kind, error)
        self.kind = kind
        self.error = error


class Attempt:
    """ReplicaCalls one replica for one model, signature and set of outputs."""

    def __init__(self, model: str, signature: str, outputs: Sequence[str], guard: Guard, clock: Clock) -> None:
        self.model = model
        self._signature = signature
        self._outputs = tuple(outputs)
        self._guard = guard
        self._clock = clock

    async def run(self, replica: Replica, arrays: Arrays, label: str, deadline: float, number: int) -> Answer:
        """Return the answer of `replica`; raise Problem where the inputs do not fit, AttemptFailed otherwise."""
        checked = await self._checked_metadata(replica, arrays, label, deadline)
        try:
            prediction = await self._predict(replica, checked, arrays, deadline)
        except NotFound:
            # The version was unloaded since the label was read, so nothing ran: read the label again, once.
            now = self._clock.monotonic()
            checked = await self._checked_metadata(replica, arrays, label, deadline, newer_than=now)
            try:
                prediction = await self._predict(replica, checked, arrays, deadline)
            except NotFound as error:
                raise AttemptFailed(FailureKind.ABSENT, error) from error
        return Answer(prediction.outputs, self.model, prediction.version, label, replica.target, number)

    async def _checked_metadata(
        self, replica: Replica, arrays: Arrays, label: str, deadline: float, newer_than: float | None = None
    ) -> Metadata:
        """Return the version under `label` after `arrays` were checked against its signature."""
        metadata = await self._resolve(replica, label, deadline, newer_than)
        try:
            self._guard.check(metadata, arrays)
        except Problem:
            # The label may have moved to a version that these inputs fit.
            newest = self._clock.monotonic() - MIN_REFRESH_SECONDS
            metadata = await self._resolve(replica, label, deadline, newest)
            self._guard.check(metadata, arrays)
        return metadata

    async def _resolve(self, replica: Replica, label: str, deadline: float, newer_than: float | None) -> Metadata:
        try:
            return await replica.resolve(label, deadline, newer_than=newer_than)
        except NotFound as error:
            raise AttemptFailed(FailureKind.ABSENT, error) from error
        except TFSDeployError as error:  # nothing was sent yet, so another replica may get the request
            raise AttemptFailed(FailureKind.REFUSED, error) from error

    async def _predict(self, replica: Replica, checked: Metadata, arrays: Arrays, deadline: float) -> Prediction:
        started = self._clock.monotonic()
        if deadline <= started:
            raise AttemptFailed(
                FailureKind.FINAL,
                DeadlineExceeded(f"The deadline of a request to {self.model!r} has passed.", "Try again."),
            )
        try:
            prediction = await replica.client.predict(
                self.model,
                dict(arrays),
                version=checked.version,
                signature=self._signature,
                outputs=self._outputs,
                timeout=deadline - started,
            )
        except NotFound:
            raise
        except DeadlineExceeded as error:
            self._record_latency(replica, started)
            raise AttemptFailed(FailureKind.FINAL, error) from error
        except TFSDeployError as error:
            kind = failure_kind(error)
            if kind in (FailureKind.REFUSED, FailureKind.LOST) and not isinstance(error, InvalidInput):
                replica.record_failure(error)
            raise AttemptFailed(kind, error) from error
        self._record_latency(replica, started)
        return prediction

    def _record_latency(self, replica: Replica, started: float) -> None:
        now = self._clock.monotonic()
        replica.load.record_latency(now, now - started)
