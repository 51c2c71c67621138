"""All gates, on every replica, to one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfs_deploy.clock import Clock
from tfs_deploy.errors import Inconclusive, InvalidInput, ValidationFailed
from tfs_deploy.savedmodel.labelled import read_labelled
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.savedmodel.requests import GOLDEN_PATH, parse_golden, read_golden
from tfs_deploy.serving.protocol import ServingClient
from tfs_deploy.validation.candidate import Candidate, Gate, LiveVersion, Material, run_gate
from tfs_deploy.validation.config import Gates
from tfs_deploy.validation.gates import accuracy, golden, prediction, signature
from tfs_deploy.validation.report import Check, ValidationReport, Verdict, overall

ReadFile = Callable[[str], bytes]

# The order in which a reader wants to learn of a fault: what it is, whether it runs, what it says, how good it is.
GATES: tuple[tuple[str, Gate], ...] = (
    (signature.NAME, signature.check_signatures),
    (prediction.NAME, prediction.check_prediction),
    (golden.NAME, golden.check_golden),
    (accuracy.NAME, accuracy.check_accuracy),
)


def gather(manifest: Manifest, gates: Gates, read_file: ReadFile) -> Material:
    """Read what the gates need, and refuse what does not fit the model before any server is asked.

    `read_file` returns a small file of the version by its path. Raises InvalidInput or CorruptModel.
    """
    if gates.golden.file:
        where = gates.golden.file
        requests = read_golden(Path(where))
        if not requests:
            raise InvalidInput(
                f"The golden file {where!r} holds no request, so the gate that was asked for would not run.",
                "Record requests, or leave golden.file out.",
            )
    else:
        where = "the version itself"
        held = any(entry.path == GOLDEN_PATH for entry in manifest.files)
        requests = parse_golden(read_file(GOLDEN_PATH), where=GOLDEN_PATH) if held else ()
    golden.fit_golden(requests, manifest.signatures, where=where)
    labelled = None
    if gates.accuracy is not None:
        labelled = read_labelled(Path(gates.accuracy.file))
        accuracy.fit_labelled(labelled, gates.accuracy, manifest.signatures)
    return Material(manifest, requests, labelled)


def validate_replicas(
    clients: Mapping[str, ServingClient],
    model: str,
    version: int,
    *,
    material: Material,
    gates: Gates,
    live: Mapping[str, LiveVersion],
    clock: Clock,
) -> ValidationReport:
    """Run every gate on every replica by explicit version and return the report; `live` is by replica."""
    started = clock.monotonic()

    def validate(target: str) -> list[Check]:
        candidate = Candidate(clients[target], model, version, material, live.get(target), gates.rpc_seconds)
        found = (run_gate(name, gate, candidate, gates) for name, gate in GATES)
        return [check for check in found if check is not None]

    with ThreadPoolExecutor(max_workers=max(1, min(len(clients), 8))) as pool:
        checks = tuple(check for found in pool.map(validate, clients) for check in found)
    return ValidationReport(
        model=model,
        version=version,
        fingerprint=material.manifest.fingerprint,
        replicas=tuple(clients),
        checks=checks,
        verdict=overall(checks),
        at=clock.now().isoformat(),
        seconds=round(clock.monotonic() - started, 3),
        compared_with=_compared_with(clients, gates, live),
    )


def _compared_with(
    clients: Mapping[str, ServingClient], gates: Gates, live: Mapping[str, LiveVersion]
) -> tuple[int, ...]:
    if gates.accuracy is None or not gates.accuracy.compare_live:
        return ()
    return tuple(sorted({live[target].version if target in live else 0 for target in clients}))


def require_pass(report: ValidationReport) -> ValidationReport:
    """Return `report` if it passed; raise ValidationFailed or Inconclusive with the reason otherwise."""
    if report.verdict is Verdict.FAIL:
        raise ValidationFailed(
            report.reason(), "The live version was not touched; correct the model and publish it again."
        )
    if report.verdict is Verdict.INCONCLUSIVE:
        raise Inconclusive(
            report.reason(), "Nothing was promoted; make every replica reachable and its gates decidable, then retry."
        )
    return report
