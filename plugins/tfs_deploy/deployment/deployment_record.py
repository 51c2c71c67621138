"""The deployment record: one event of a version, and what it changed for `stable`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Action(str, Enum):
    """The events of a version that are recorded."""

    PUBLISHED = "published"
    VALIDATED = "validated"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    PUT_BACK = "put_back"
    LABELLED = "labelled"
    REJECTED = "rejected"
    RETIRED = "retired"
    UNDEPLOYED = "undeployed"
    RECONCILED = "reconciled"


# Only after these another version, or none, may answer `stable`; PUT_BACK follows a move that failed.
MOVES_STABLE = frozenset({Action.PROMOTED, Action.ROLLED_BACK, Action.PUT_BACK, Action.UNDEPLOYED})
# `live_since` of a record that was written before there was such a field.
UNKNOWN_SEQUENCE = -1


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """One line of a model's history; `at` is ISO 8601 in UTC, `previous` the version that was live before.

    `version` is 0 where a move leaves nothing live (UNDEPLOYED, or PUT_BACK of a first version). `label` is that of
    LABELLED. `away` names the replicas that a move did not reach. `idempotency_key` names the request that caused it
    (an Airflow task of a run), and is empty where there is none; `generation` is that of the desired state in which a
    move of labels began. `live_since` is the sequence of the record that made live what is live after this one, 0 if
    nothing ever was; `records.append` fills it in.
    """

    sequence: int
    at: str
    group: str
    model: str
    action: Action
    version: int
    actor: str
    previous: int | None = None
    fingerprint: str = ""
    reason: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    label: str = ""
    seconds: float = 0.0
    idempotency_key: str = ""
    generation: int = 0
    live_since: int = UNKNOWN_SEQUENCE


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The version that answered `stable` at a moment, since when, and who moved it there; `version` None: none then."""

    model: str
    at: str
    version: int | None
    since: str
    actor: str
