"""What Airflow loads at the start of every process: the plugin, and nothing else."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class TFSDeployPlugin(AirflowPlugin):
    """Make the plugin known under its name; operators and hooks are plain imports."""

    name = "tfs_deploy"
