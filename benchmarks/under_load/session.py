"""The limit of any server: the session itself, called in a loop in this process, nothing in between.

    python session.py SAVED_MODEL SECONDS

Prints JSON: calls per second by "rows x threads".
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path


def calls_per_second(run: object, threads: int, seconds: float) -> float:
    """Return how often `threads` threads together call `run` in a second."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def loop(place: int) -> None:
        while time.perf_counter() < end:
            run()
            counts[place] += 1

    workers = [threading.Thread(target=loop, args=(place,)) for place in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun)


def main(directory: Path, seconds: float) -> None:
    """Load the model as the server does, and measure."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tfs_deploy.modelserver.lifecycle.monitor import ServableId
    from tfs_deploy.modelserver.loading.loader import LoadOptions, SavedModelLoader
    from under_load import digits

    servable = SavedModelLoader(ServableId("digits", 1), str(directory), LoadOptions()).load()
    signature = servable.signature_defs.signature_def["serving_default"]
    fetches = [info.name for info in signature.outputs.values()]
    (feed,) = (info.name for info in signature.inputs.values())
    found = {}
    for rows in (1, 64):
        batch = digits.images(rows)

        def run(batch: object = batch) -> None:
            servable.session.run({feed: batch}, fetches)

        calls_per_second(run, 1, 0.3)
        for threads in (1, 4):
            found[f"{rows} x {threads}"] = calls_per_second(run, threads, seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
