"""What our operators add to the reading of DAG files, against ``import airflow.sdk`` in the same process.

Run: python benchmarks/dag_parsing.py [--json] [--runs N]. Each run is a fresh process with an Airflow home of its own
that imports airflow.sdk, then everything that `tfs_deploy` offers to DAG files, then reads the files of dags/.
Aim: the import adds under 300 ms, and none of the heavy packages is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

AIM_SECONDS = 0.3
HEAVY = ("tensorflow", "tensorflow_serving", "boto3", "docker", "tornado")
FIGURES = ("airflow_sdk", "tfs_deploy", "dag_files")
DAGS = Path(__file__).resolve().parents[1] / "dags"

_PROGRAM = """
import json, os, sys, time
# tenacity, which Airflow imports, loads Tornado where it is installed; that is not what is measured here.
sys.modules["tornado"] = None
def timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
def airflow_sdk():
    from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, Param, TaskGroup, task
def tfs_deploy():
    import tfs_deploy
    for name in dir(tfs_deploy):
        getattr(tfs_deploy, name)
def dag_files():
    for entry in sorted(os.listdir(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])):
        if entry.endswith(".py"):
            path = os.path.join(os.environ["AIRFLOW__CORE__DAGS_FOLDER"], entry)
            exec(compile(open(path).read(), path, "exec"), {"__name__": entry, "__file__": path})
seconds = [timed(work) for work in (airflow_sdk, tfs_deploy, dag_files)]
del sys.modules["tornado"]
print(json.dumps([seconds, sorted(sys.modules)]))
"""


def measure(runs: int) -> tuple[dict[str, float], list[str]]:
    """Return the median seconds per figure, after one run that warms the disk cache, and the heavy modules found."""
    samples: list[list[float]] = []
    loaded: set[str] = set()
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment.update(
            AIRFLOW_HOME=home,
            AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
            AIRFLOW__CORE__PLUGINS_FOLDER=str(Path(home, "plugins")),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
        )
        for _ in range(runs + 1):
            command = [sys.executable, "-c", _PROGRAM]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            seconds, modules = json.loads(done.stdout.splitlines()[-1])
            samples.append(seconds)
            loaded.update(modules)
    medians = [statistics.median(column) for column in zip(*samples[1:], strict=True)]
    return dict(zip(FIGURES, medians, strict=True)), sorted(loaded.intersection(HEAVY))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    seconds, heavy = measure(args.runs)
    ratio = seconds["tfs_deploy"] / seconds["airflow_sdk"]
    within = seconds["tfs_deploy"] <= AIM_SECONDS and not heavy
    if args.json:
        print(json.dumps({"seconds": seconds, "ratio": ratio, "heavy_modules": heavy, "within_aim": within}))
        return
    for name, value in seconds.items():
        print(f"{name:20}{value * 1000:10.0f} ms")
    print(f"{'ratio':20}{ratio:10.3f}")
    print(f"{'heavy modules':20}{', '.join(heavy) or 'none':>10}")


if __name__ == "__main__":
    main()
