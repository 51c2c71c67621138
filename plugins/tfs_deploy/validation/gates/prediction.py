"""Gate `prediction`: every signature is asked once, because AVAILABLE proves no inference (contract 20.7, 20.11)."""

from __future__ import annotations

from tfs_deploy.errors import ModelServerError
from tfs_deploy.names import plural
from tfs_deploy.serving.signature import Inputs, made_up_inputs
from tfs_deploy.validation.gate import Candidate, Gate, ModelFiles, Outcome
from tfs_deploy.validation.report import Verdict

# A made-up request can be invalid for a sound model.
_REQUEST_ERRORS = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})


class PredictionGate(Gate[bool, dict[str, tuple[Inputs | None, bool]]]):
    """Ask every signature with a recorded request, or with a made-up one where none is recorded.

    A made-up request that the model calls invalid proves nothing either way, so at least one signature must answer.
    """

    name = "prediction"
    options = bool
    default = True

    def prepare(self, options: bool, files: ModelFiles) -> dict[str, tuple[Inputs | None, bool]]:
        """Return per signature the inputs to send, None where none can be made up, and whether they were recorded."""
        recorded = {request.signature: request.inputs for request in files.golden_requests}
        return {
            name: (recorded.get(name) or made_up_inputs(signature), name in recorded)
            for name, signature in sorted(files.manifest.signatures.items())
        }

    def check(self, options: bool, prepared: dict[str, tuple[Inputs | None, bool]], candidate: Candidate) -> Outcome:
        """Send one request per signature."""
        unproven: list[str] = []
        for name, (inputs, recorded) in prepared.items():
            if inputs is None:
                unproven.append(name)
                continue
            try:
                candidate.predict(inputs, name)
            except ModelServerError as error:
                if recorded or error.code not in _REQUEST_ERRORS:
                    raise
                unproven.append(name)
        answered = len(prepared) - len(unproven)
        detail = f"{answered} of {plural(len(prepared), 'signature')} answered"
        if unproven:
            detail += f"; {', '.join(unproven)} refused a made-up request, so give golden requests for it"
        return Outcome(Verdict.PASS if answered else Verdict.INCONCLUSIVE, detail)
