"""Gate `signature`: the replica serves the signatures that the manifest recorded."""

from __future__ import annotations

from tfs_deploy.names import plural
from tfs_deploy.serving.signature import compatible
from tfs_deploy.validation.candidate import Candidate
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.report import Check, Verdict

NAME = "signature"


def check_signatures(candidate: Candidate, gates: Gates) -> Check | None:
    """Compare names, dtypes and shapes; graph tensor names may differ."""
    if not gates.signature:
        return None
    found = candidate.client.metadata(candidate.model, version=candidate.version, timeout=candidate.timeout)
    differences = compatible(candidate.material.manifest.signatures, found.signatures)
    if differences:
        return Check(NAME, candidate.client.target, Verdict.FAIL, "; ".join(differences[:3]))
    count = len(found.signatures)
    return Check(NAME, candidate.client.target, Verdict.PASS, f"{plural(count, 'signature')} as in the manifest")
