"""Gate `signature`: the replica serves the signatures that the manifest recorded."""

from __future__ import annotations

from tfs_deploy.names import plural
from tfs_deploy.serving.signature import Signature, compatible
from tfs_deploy.validation.gate import Candidate, Gate, ModelFiles, Outcome
from tfs_deploy.validation.report import Verdict


class SignatureGate(Gate[bool, dict[str, Signature]]):
    """Compare names, dtypes and shapes; graph tensor names may differ."""

    name = "signature"
    options = bool
    default = True

    def prepare(self, options: bool, files: ModelFiles) -> dict[str, Signature]:
        """Return the signatures of the manifest."""
        return files.manifest.signatures

    def check(self, options: bool, prepared: dict[str, Signature], candidate: Candidate) -> Outcome:
        """Compare them with those that the replica answers with."""
        served = candidate.client.metadata(candidate.model, version=candidate.version, timeout=candidate.timeout)
        differences = compatible(prepared, served.signatures)
        if differences:
            return Outcome(Verdict.FAIL, "; ".join(differences[:3]))
        return Outcome(Verdict.PASS, f"{plural(len(served.signatures), 'signature')} as in the manifest")
