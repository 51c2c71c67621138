"""The proof that a version passed its gates: without it nothing is promoted (invariant I1)."""

from __future__ import annotations

from tfs_deploy.errors import Contention, Refused
from tfs_deploy.jsonable import from_json, to_json
from tfs_deploy.store.protocol import StateDocuments
from tfs_deploy.validation.report import ValidationReport, Verdict


def save(documents: StateDocuments, group: str, report: ValidationReport) -> None:
    """Write `report` as the latest word on its version.

    About the same bytes a report that could not decide undoes no other: a replica that is away proves nothing. And a
    gate that failed has failed until it runs again: a pass without that gate does not undo it.
    """
    while True:
        held = documents.read(_key(group, report.model, report.version))
        if held is not None and _outweighs(from_json(ValidationReport, held.body), report):
            return
        try:
            documents.write(
                _key(group, report.model, report.version), to_json(report), expected=held.tag if held else None
            )
        except Contention:
            continue
        return


def read(documents: StateDocuments, group: str, model: str, version: int) -> ValidationReport | None:
    """Return the latest report on a version, None if there is none."""
    held = documents.read(_key(group, model, version))
    return from_json(ValidationReport, held.body) if held else None


def invalidate(documents: StateDocuments, group: str, model: str, version: int) -> None:
    """Drop the pass of a version, so that only a new validation makes it promotable; a failure stays known."""
    report = read(documents, group, model, version)
    if report is not None and report.verdict is Verdict.PASS:
        documents.delete(_key(group, model, version))


def require(
    documents: StateDocuments,
    group: str,
    model: str,
    version: int,
    *,
    fingerprint: str,
    replicas: tuple[str, ...] = (),
    stable: int | None = None,
) -> ValidationReport:
    """Return the passing report on these very bytes and on each of `replicas`; raise Refused if there is none.

    `stable` is what is live now (0: nothing): a gate that compared with another version has to run again. None: that
    does not matter, as when going back.
    """
    report = read(documents, group, model, version)
    again = f"Run: tfs-deploy validate {model} {version}."
    if report is None:
        raise Refused(
            f"Version {version} of model {model!r} was never validated on group {group!r} as it is loaded now.", again
        )
    if report.verdict is Verdict.INCONCLUSIVE:
        raise Refused(report.reason(), again)
    if report.verdict is Verdict.FAIL:
        raise Refused(
            report.reason(),
            "Only what passed its gates may answer `stable`: publish a better version, or let the gates that failed "
            "run again.",
        )
    if report.fingerprint != fingerprint:
        raise Refused(
            f"Version {version} of model {model!r} was validated with other bytes ({report.fingerprint}) than the "
            f"store holds ({fingerprint}).",
            "Somebody changed a published version: publish a new one.",
        )
    if stable is not None and report.compared_with and stable not in report.compared_with:
        told = f"version {stable} is live now" if stable else "nothing is live now"
        raise Refused(
            f"Version {version} of model {model!r} was compared with version {report.compared_with[-1] or 'none'} as "
            f"the live one, and {told}.",
            again,
        )
    missing = sorted(set(replicas) - set(report.replicas))
    if missing:
        raise Refused(f"Version {version} of model {model!r} was not validated on replica {missing[0]}.", again)
    return report


def _outweighs(held: ValidationReport, report: ValidationReport) -> bool:
    if held.fingerprint != report.fingerprint or held.verdict is Verdict.INCONCLUSIVE:
        return False
    if report.verdict is Verdict.INCONCLUSIVE:
        return True
    failed = {check.gate for check in held.checks if check.verdict is Verdict.FAIL}
    return report.verdict is Verdict.PASS and not failed <= {check.gate for check in report.checks}


def _key(group: str, model: str, version: int) -> str:
    return f"groups/{group}/verdicts/{model}/{version}.json"
