"""What stands between strangers and the model servers: nothing is sent that does not fit the version's signature.

A stock model server does not compare shapes, and one input of a wrong rank can end its process (contract 20.1). So an
input of which the signature does not say the rank is not sent either, unless the configuration says it in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.problem import Problem, bad_upstream, unusable
from tfs_deploy.gateway.upstream.answer import Arrays
from tfs_deploy.serving.protocol import Metadata
from tfs_deploy.serving.signature import Signature, TensorSpec, check_inputs


class Guard:
    """Compares inputs with one signature of whatever version is live; `ranks` of inputs whose rank that leaves open."""

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
        """Return how many rows `arrays` have if rows of several requests may go as one; None if they may not.

        They may where the first dimension of every input and output is free, so that it can only be the batch.
        """
        if not self.batched(metadata):
            return None
        counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        return counts.pop() or None if len(counts) == 1 else None

    def batched(self, metadata: Metadata) -> bool:
        """Tell whether the version of `metadata` takes the rows of several requests as one."""
        signature = metadata.signatures.get(self._name)
        return signature is not None and bool(signature.inputs) and self._all_batched(signature)

    def _all_batched(self, signature: Signature) -> bool:
        wanted = self._outputs or signature.outputs
        specs = [*signature.inputs.values(), *(signature.outputs[name] for name in wanted if name in signature.outputs)]
        return all(_batched(spec) for spec in specs)

    def _signature(self, metadata: Metadata) -> Signature:
        found = metadata.signatures.get(self._name)
        if found is None:
            raise self._misfit(metadata, f"has no signature {self._name!r}")
        missing = sorted(set(self._outputs) - found.outputs.keys())
        if missing:
            raise self._misfit(metadata, f"has no output {missing[0]!r} in signature {self._name!r}")
        return found

    def _check_rank(self, metadata: Metadata, alias: str, rank: int) -> None:
        wanted = self._ranks.get(alias)
        if wanted is None:
            what = f"does not say how many dimensions its input {alias!r} has; `ranks` in the configuration can say it"
            raise bad_upstream(f"Nothing is sent to model {metadata.model!r}: its version {metadata.version} {what}.")
        if wanted not in (rank, "any"):
            raise unusable(
                f"The input {alias!r} of model {metadata.model!r} must have {wanted} dimensions, "
                f"but an array of {rank} was given."
            )

    def _misfit(self, metadata: Metadata, what: str) -> Problem:
        return bad_upstream(f"Model {metadata.model!r} version {metadata.version} {what}, which the gateway asks for.")


def _batched(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] is None
