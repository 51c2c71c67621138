"""From a training checkpoint to a version that answers production traffic in TensorFlow Serving."""

from __future__ import annotations

__version__ = "0.1.0"

# Resolved on first use: Airflow imports this package in every process, while its own configuration is being built.
_PUBLIC_NAMES = {
    "BakeModelVersionOperator": "tfs_deploy.operators.bake",
    "DeployModelOperator": "tfs_deploy.operators.deploy",
    "ExportSavedModelOperator": "tfs_deploy.operators.export",
    "ModelServerContainer": "tfs_deploy.containers.model_server",
    "ServerOptions": "tfs_deploy.containers.options",
    "StartModelServerOperator": "tfs_deploy.operators.model_server",
    "StopModelServerOperator": "tfs_deploy.operators.model_server",
    "LabelModelVersionOperator": "tfs_deploy.operators.label",
    "LoadModelVersionOperator": "tfs_deploy.operators.load",
    "ModelVersionSensor": "tfs_deploy.sensors.model_version",
    "PromoteModelVersionOperator": "tfs_deploy.operators.promote",
    "PublishModelOperator": "tfs_deploy.operators.publish",
    "ReconcileServingGroupOperator": "tfs_deploy.operators.reconcile",
    "RejectModelVersionOperator": "tfs_deploy.operators.reject",
    "RetireModelVersionsOperator": "tfs_deploy.operators.retire",
    "RollbackModelOperator": "tfs_deploy.operators.rollback",
    "TFServingHook": "tfs_deploy.hooks.tf_serving",
    "UndeployModelOperator": "tfs_deploy.operators.undeploy",
    "ValidateModelVersionOperator": "tfs_deploy.operators.validate",
    "deploy_model": "tfs_deploy.task_groups",
    "stable_asset": "tfs_deploy.operators.stable_asset",
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(_PUBLIC_NAMES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "airflow":
            raise
        from tfs_deploy.errors import MissingExtra

        raise ModuleNotFoundError(str(MissingExtra("apache-airflow", "airflow")), name=error.name) from error
    value: object = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC_NAMES])
