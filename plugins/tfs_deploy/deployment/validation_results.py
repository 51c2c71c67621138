"""The validation reports of versions: without a passing one nothing is promoted (I1)."""

from __future__ import annotations

from collections.abc import Iterable

from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import Refused
from tfs_deploy.jsonable import from_json
from tfs_deploy.store.documents import update
from tfs_deploy.store.protocol import StateDocuments
from tfs_deploy.validation.report import ValidationReport, Verdict


def save(session: GroupSession, report: ValidationReport) -> None:
    """Write `report` as the latest one on its version, unless the one before outweighs it.

    For the same bytes, an inconclusive report does not replace a decided one: a replica that is away proves nothing. A
    gate that failed has failed until it runs again: a pass without that gate does not replace the failure.
    """

    def latest(before: ValidationReport | None) -> ValidationReport:
        return before if before is not None and _outweighs(before, report) else report

    key = _key(session.group.name, report.model, report.version)
    update(session.store.documents, key, ValidationReport, latest, clock=session.clock)


def replace(session: GroupSession, before: ValidationReport, report: ValidationReport) -> ValidationReport:
    """Write `report` in place of `before` and return it; return what is there if that is another report meanwhile.

    Raises Refused if there is none: the version was loaded again since.
    """

    def changed(current: ValidationReport | None) -> ValidationReport:
        if current is None:
            raise _never_validated(session.group.name, report.model, report.version)
        return report if current == before else current

    key = _key(session.group.name, report.model, report.version)
    return update(session.store.documents, key, ValidationReport, changed, clock=session.clock)


def read(documents: StateDocuments, group: str, model: str, version: int) -> ValidationReport | None:
    """Return the latest report on a version, None if there is none."""
    document = documents.read(_key(group, model, version))
    return None if document is None else from_json(ValidationReport, document.body)


def invalidate(session: GroupSession, model: str, version: int) -> None:
    """Delete the passing report of a version, so that it has to be validated again; a failing one stays."""
    documents, group = session.store.documents, session.group.name
    report = read(documents, group, model, version)
    if report is not None and report.verdict is Verdict.PASS:
        documents.delete(_key(group, model, version))


def require(
    session: GroupSession, model: str, version: int, *, fingerprint: str, replicas: tuple[str, ...] = ()
) -> ValidationReport:
    """Return the passing report on these very bytes and on each of `replicas`; raise Refused if there is none.

    With which live version it compared is for `comparison.compare_again`; a rollback compares nothing.
    """
    group = session.group.name
    report = read(session.store.documents, group, model, version)
    again = _validate_again(model, version)
    if report is None:
        raise _never_validated(group, model, version)
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
            "A published version was changed: publish a new one.",
        )
    require_covered(report, replicas)
    return report


def require_covered(report: ValidationReport, replicas: Iterable[str]) -> None:
    """Raise Refused for a replica on which the version was not validated."""
    missing = sorted(set(replicas) - set(report.replicas))
    if missing:
        raise Refused(
            f"Version {report.version} of model {report.model!r} was not validated on replica {missing[0]}.",
            _validate_again(report.model, report.version),
        )


def outdated(report: ValidationReport, live: int) -> Refused:
    """Return the error about a report that compared with another version than `live` (0: none)."""
    compared = next(number for number in reversed(report.compared_with) if number != live)
    return Refused(
        f"Version {report.version} of model {report.model!r} was compared with version {compared or 'none'} as the "
        f"live one, and {f'version {live}' if live else 'nothing'} is live now.",
        _validate_again(report.model, report.version),
    )


def _never_validated(group: str, model: str, version: int) -> Refused:
    return Refused(
        f"Version {version} of model {model!r} was never validated on group {group!r} as it is loaded now.",
        _validate_again(model, version),
    )


def _validate_again(model: str, version: int) -> str:
    return f"Run: tfs-deploy validate {model} {version}."


def is_outdated(report: ValidationReport, live: int) -> bool:
    """Tell whether a gate compared the version with another one than `live` (0: none) as the live version."""
    return bool(set(report.compared_with) - {live})


def _outweighs(before: ValidationReport, report: ValidationReport) -> bool:
    if before.fingerprint != report.fingerprint or before.verdict is Verdict.INCONCLUSIVE:
        return False
    if report.verdict is Verdict.INCONCLUSIVE:
        return True
    failed = {check.gate for check in before.checks if check.verdict is Verdict.FAIL}
    return report.verdict is Verdict.PASS and not failed <= {check.gate for check in report.checks}


def _key(group: str, model: str, version: int) -> str:
    return f"groups/{group}/verdicts/{model}/{version}.json"
