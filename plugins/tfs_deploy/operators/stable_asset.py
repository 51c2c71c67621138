"""The asset of the version that answers `stable`, and its event when `stable` moves."""

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
    """Return the asset of a model; a DAG that is scheduled on it runs when `stable` moves."""
    return Asset(name=f"{group}/{model} stable", uri=f"tfs-deploy://{group}/{model}")


def emit_asset_event(context: Mapping[str, Any] | Context, record: DeploymentRecord) -> None:
    """Add an event for the move in `record`, with version and fingerprint as its extra."""
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
