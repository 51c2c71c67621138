"""What Airflow asks a provider distribution: the connection type with its form.

Airflow reads this while its configuration is being built, so nothing of Airflow may be imported here.
"""

from __future__ import annotations

from typing import Any

_FIELDS: dict[str, dict[str, Any]] = {
    "store": {
        "label": "Store",
        "description": "Directory that holds the published versions, as the workers see it, or s3://bucket/prefix.",
        "schema": {"type": ["string", "null"]},
    },
    "aws_conn_id": {
        "label": "AWS connection",
        "description": "For a store in S3: an ordinary aws connection; empty: the credentials of the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "group": {
        "label": "Serving group",
        "description": "Name of the replicas that share one configuration.",
        "schema": {"type": ["string", "null"], "default": "default"},
    },
    "model_root": {
        "label": "Model root",
        "description": "The versions' directory as the model servers see it; empty: the store's path.",
        "schema": {"type": ["string", "null"]},
    },
    "mode": {
        "label": "Mode",
        "description": "labels: traffic moves when a label moves. latest: the servers were started with "
        "--model_base_path and answer from the highest version.",
        "schema": {"type": "string", "enum": ["labels", "latest"], "default": "labels"},
    },
    "startup_config": {
        "label": "Start-up config file",
        "description": "The file that the model servers read when they start (--model_config_file), kept current here.",
        "schema": {"type": ["string", "null"]},
    },
    "tls": {
        "label": "TLS",
        "description": "Encrypt; without certificates the machine's own roots are trusted.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "root_certificates": {
        "label": "Root certificates",
        "description": "Path of a PEM file on the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "private_key": {
        "label": "Private key",
        "description": "Path of a PEM file on the workers; the key itself is never stored in Airflow.",
        "schema": {"type": ["string", "null"]},
    },
    "certificate_chain": {
        "label": "Certificate chain",
        "description": "Path of a PEM file on the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "server_name": {
        "label": "Server name",
        "description": "The name in the servers' certificate, where it is not the host name.",
        "schema": {"type": ["string", "null"]},
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description in the form of Airflow's provider info schema."""
    return {
        "package-name": "airflow-provider-tfs-deploy",
        "name": "TensorFlow Serving deployments",
        "description": "From a training checkpoint to a version that answers production traffic in TensorFlow Serving.",
        "connection-types": [
            {
                "connection-type": "tf_serving",
                "hook-class-name": "tfs_deploy.hooks.tf_serving.TFServingHook",
                "hook-name": "TensorFlow Serving",
                "conn-fields": _FIELDS,
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "password", "schema"],
                    "relabeling": {"host": "Replicas", "port": "Default port"},
                    "placeholders": {"host": "serving-0:8500,serving-1:8500 or dns:serving:8500", "port": "8500"},
                },
            }
        ],
    }
