"""Tell by the exit code whether a part of Airflow lives: ``healthy.py api-server|scheduler|dag-processor|triggerer``.

The API server tells about itself and about the heartbeats of the others; `airflow jobs check` would take seconds.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

PARTS = {
    "api-server": "metadatabase",
    "scheduler": "scheduler",
    "dag-processor": "dag_processor",
    "triggerer": "triggerer",
}


def main() -> None:
    """Ask the API server that the execution API's address names."""
    api = os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].removesuffix("/execution/")
    with urllib.request.urlopen(f"{api}/api/v2/monitor/health", timeout=8) as answer:  # noqa: S310 - http, ours
        status = json.load(answer)[PARTS[sys.argv[1]]]["status"]
    sys.exit(0 if status == "healthy" else f"{sys.argv[1]} is {status}")


main()
