"""Step `bake`: for a time, a canary is compared with the stable version under the traffic that gateways send it.

A canary that fails loses its label; nothing else is changed, and promotion stays a step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tfs_deploy.deployment import desired_state
from tfs_deploy.deployment.bake_decision import BakeDecision, BakeLimits, decide
from tfs_deploy.deployment.desired_state import STABLE
from tfs_deploy.deployment.gateway_metrics import Fetch, Readings, check_addresses, compare, read_counts
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.deployment.steps.label import check_custom_label, remove_label
from tfs_deploy.errors import NotFound, Refused, Unreachable
from tfs_deploy.names import check_model_name
from tfs_deploy.validation.report import Verdict

# Gateways answer from memory, and a verdict needs minutes of traffic.
INTERVAL_SECONDS = 15.0
CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Bake:
    """A bake that has begun: what is compared, where it is measured, and what was counted before.

    `seconds` is how long it lasts; `until` is its end in seconds since the epoch.
    """

    model: str
    label: str
    canary: int
    stable: int
    addresses: tuple[str, ...]
    before: Readings
    seconds: float
    until: float
    limits: BakeLimits


@dataclass(frozen=True, slots=True)
class BakeReport:
    """The outcome of a bake; `label_removed` tells whether the canary lost its label."""

    model: str
    label: str
    canary: int
    stable: int
    verdict: Verdict
    reason: str
    measured: dict[str, float]
    label_removed: bool


def begin(
    session: GroupSession,
    model: str,
    label: str,
    *,
    addresses: Iterable[str],
    seconds: float,
    limits: BakeLimits,
    fetch: Fetch,
) -> Bake:
    """Check the request, read every gateway once, and return the bake.

    Raises InvalidInput for a reserved label or unusable addresses, NotFound for a label that is not set, Refused where
    nothing is to be compared, and Unreachable for a gateway that cannot be read: it would leave the bake undecided.
    """
    check_model_name(model)
    check_custom_label(label, model)
    checked = check_addresses(addresses)
    labels = desired_state.read(session.store.documents, session.group).labels(model)
    if label not in labels:
        raise NotFound(
            f"Model {model!r} has no label {label!r} in group {session.group.name!r}.",
            f"Set it first: tfs-deploy label {model} {label} VERSION.",
        )
    canary, stable = labels[label], labels.get(STABLE)
    if stable is None or stable == canary:
        what = "no version is stable" if stable is None else f"version {canary} is stable too"
        raise Refused(
            f"Label {label!r} of model {model!r} cannot be compared with `stable`: {what}.",
            "Bake a version beside the stable one; the first version of a model is promoted without it.",
        )
    before = read_counts(checked, model, fetch)
    for address, error in before.errors.items():
        raise Unreachable(f"The metrics at {address} cannot be read: {error}.", "Check the address and the gateway.")
    until = session.clock.now().timestamp() + seconds
    return Bake(model, label, canary, stable, checked, before, seconds, until, limits)


def poll(bake: Bake, fetch: Fetch) -> BakeDecision:
    """Read every gateway once and return the decision so far; needs no store and no model server."""
    after = read_counts(bake.addresses, bake.model, fetch)
    traffic = compare(bake.before, after, label=bake.label, canary=bake.canary, stable=bake.stable)
    return decide(traffic.canary, traffic.stable, bake.limits, missing=traffic.missing)


def finish(session: GroupSession, bake: Bake, decision: BakeDecision) -> BakeReport:
    """Remove the label of a canary that failed, and return the report.

    The decision is inconclusive, and removes nothing, if one of the two labels has moved meanwhile. Raises what
    `remove_label` raises.
    """
    labels = desired_state.read(session.store.documents, session.group).labels(bake.model)
    moved = [
        name for name, version in ((bake.label, bake.canary), (STABLE, bake.stable)) if labels.get(name) != version
    ]
    if moved:
        reason = f"Label {moved[0]} of model {bake.model!r} has moved during the bake."
        decision = replace(decision, verdict=Verdict.INCONCLUSIVE, reason=reason)
    removed = None
    if decision.verdict is Verdict.FAIL:
        removed = remove_label(session, bake.model, bake.label, version=bake.canary, reason=decision.reason)
    return BakeReport(
        bake.model,
        bake.label,
        bake.canary,
        bake.stable,
        decision.verdict,
        decision.reason,
        decision.measured,
        removed is not None,
    )


def watch(
    session: GroupSession,
    bake: Bake,
    fetch: Fetch,
    *,
    interval: float = INTERVAL_SECONDS,
    on_poll: Callable[[BakeDecision], object] = lambda decision: None,
) -> BakeDecision:
    """Poll until the end of the bake, or until the canary has failed, and return the last decision."""
    clock = session.clock
    while True:
        left = bake.until - clock.now().timestamp()
        if left > 0.0:
            clock.sleep(min(interval, left))
        decision = poll(bake, fetch)
        on_poll(decision)
        if decision.verdict is Verdict.FAIL or bake.until <= clock.now().timestamp():
            return decision
