"""Runs in a clean process with Airflow: says, as JSON, what Airflow makes of the package that is on its path."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

HEAVY = {"tensorflow", "keras", "sklearn", "tensorflow_serving", "boto3", "docker", "tornado"}
# Each is a program of its own, or runs as `plugin`.
NOT_FOR_AIRFLOW = {"modelserver", "plugin"}


def main() -> None:
    """Load the plugins as every Airflow process does, import the package, and tell."""
    import airflow.sdk

    # Airflow's retry library loads tornado by itself wherever that is installed.
    brought_by_airflow = set(sys.modules)
    from airflow.sdk import plugins_manager as worker_plugins_manager

    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    told: dict[str, Any] = {
        "airflow": airflow.sdk.__version__,
        "plugins": names(plugins_manager._get_plugins()[0]),
        "worker_plugins": names(worker_plugins_manager._get_plugins()[0]),
        "import_errors": plugins_manager.get_import_errors(),
    }
    import tfs_deploy

    package = Path(tfs_deploy.__file__).parent
    import_everything(package)
    import grpc

    told |= {
        "package": str(package),
        "grpc": grpc.__file__,
        "bare": sorted(name for name in sys.modules if not name.startswith("tfs_deploy") and lies_in(package, name)),
        "public": sorted(name for name in dir(tfs_deploy) if callable(getattr(tfs_deploy, name))),
        "heavy": sorted(HEAVY & ({*sys.modules} - brought_by_airflow)),
    }
    print(json.dumps(told | provider()))


def names(plugins: list[Any]) -> list[str]:
    return sorted(plugin.name for plugin in plugins if plugin.name)


def import_everything(package: Path) -> None:
    for module in pkgutil.walk_packages([str(package)], "tfs_deploy."):
        if module.name.split(".")[1] not in NOT_FOR_AIRFLOW and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def lies_in(package: Path, name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return bool(file) and package in Path(file).resolve().parents


def provider() -> dict[str, Any]:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    hook = manager.hooks.get("tf_serving")
    fields = [name for name in manager.connection_form_widgets if name.startswith("extra__tf_serving__")]
    return {
        "provider": "airflow-provider-tfs-deploy" in manager.providers,
        "connection_type": None if hook is None else hook.hook_class_name,
        "fields": sorted(name.removeprefix("extra__tf_serving__") for name in fields),
    }


if __name__ == "__main__":
    main()
