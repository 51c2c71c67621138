"""The asset that stands for "what answers `stable` of this model", and the event when that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from tfs_deploy.deployment.records import DeploymentRecord

# An alias, because the model's name may be a template that is known only when the task runs.
STABLE_MOVED = AssetAlias("tfs_deploy_stable")


def stable_asset(group: str, model: str) -> Asset:
    """Return the asset to schedule a DAG on that follows a model."""
    return Asset(name=f"{group}/{model} stable", uri=f"tfs-deploy://{group}/{model}")


def emit_asset_event(context: Mapping[str, Any] | Context, record: DeploymentRecord) -> None:
    """Add the event that `record` stands for, with version and fingerprint as its extra."""
    events = context.get("outlet_events")
    if events is None:
        return
    extra: dict[str, Any] = {
        "version": record.version,
        "previous": record.previous,
        "fingerprint": record.fingerprint,
        "action": record.action.value,
    }
    events[STABLE_MOVED].add(stable_asset(record.group, record.model), extra=extra)
