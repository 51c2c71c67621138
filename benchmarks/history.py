"""Questions about a history, and a new record, with 20, 10,000 and 100,000 records before, on disk.

    python benchmarks/history.py [--json] [--rounds N]

Printed are the document operations and the seconds of each, and the seconds against those with 20 records. Of the
100,000 records all but the newest 1,000 are packed. The last lines compare a new record with one exclusive create of a
document in the same store, and give the seconds of a compaction of 2,000 records.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from deployment.long_history import START, CountingDocuments, record_number, write_history
from store_fake import FakeStateDocuments
from tfs_deploy.clock import SystemClock
from tfs_deploy.deployment import records
from tfs_deploy.deployment.record_packs import KEEP_RECORDS, compact
from tfs_deploy.jsonable import to_json
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import StateDocuments

GROUP, MODEL = "default", "m"
# Records before, and how many of them are packed.
LENGTHS = ((20, 0), (10_000, 0), (100_000, 99_000))
NEW = record_number(1, GROUP, MODEL)

QUESTIONS: dict[str, Callable[[Any, int], object]] = {
    "latest move": lambda documents, count: records.latest_move(documents, GROUP, MODEL),
    "newest 20": lambda documents, count: records.history(documents, GROUP, MODEL, limit=20),
    "is a version known": lambda documents, count: records.mentions(documents, GROUP, MODEL, count // 5),
    "served half way back": lambda documents, count: records.version_at(
        documents, GROUP, MODEL, START + timedelta(minutes=count // 2)
    ),
    "append": lambda documents, count: records.append(documents, NEW),
    "append once": lambda documents, count: records.append_once(documents, record_number(count, GROUP, MODEL)),
}


def on_disk(root: Path, count: int, packed: int) -> StateDocuments:
    """Return the documents of a store on disk with a history, written without a flush per document."""
    memory = FakeStateDocuments()
    write_history(memory, GROUP, MODEL, count, packed)
    root.mkdir()
    documents = open_store(str(root)).documents
    documents.write("first", b"", expected=None)
    (folder,) = (path.parent for path in root.rglob("first"))
    for key, data in memory.stored.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return documents


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(documents: StateDocuments, count: int, rounds: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, question in QUESTIONS.items():
        counting = CountingDocuments(documents)
        question(counting, count)
        taken = [seconds(lambda question=question: question(documents, count)) for _ in range(rounds)]
        operations = {kind: calls for kind, calls in counting.calls.items() if kind != "listed keys"}
        rows[name] = {"operations": operations, "ms": statistics.median(taken) * 1000}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where to work; a fresh directory below it is used and removed")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tfs-deploy-history-", dir=arguments.directory))
    try:
        figures: dict[str, Any] = {}
        for count, packed in LENGTHS:
            documents = on_disk(work / str(count), count, packed)
            figures[str(count)] = measure(documents, count, arguments.rounds)
        body, names = to_json(NEW), iter(range(arguments.rounds))
        create = statistics.median(
            seconds(lambda: documents.write(f"peer/{next(names)}", body, expected=None))
            for _ in range(arguments.rounds)
        )
        documents = on_disk(work / "compaction", KEEP_RECORDS + 2000, 0)
        compaction = seconds(lambda: compact(documents, GROUP, MODEL, actor="benchmark", clock=SystemClock()))
    finally:
        shutil.rmtree(work)
    append = figures["20"]["append"]["ms"] / 1000 / create
    if arguments.json:
        print(json.dumps({"records": figures, "append_to_create": append, "compaction_of_2000_seconds": compaction}))
        return
    for name in QUESTIONS:
        first = figures["20"][name]["ms"]
        for count, _ in LENGTHS:
            row = figures[str(count)][name]
            operations = ", ".join(f"{calls} {kind}" for kind, calls in row["operations"].items())
            print(
                f"{name}, {count:>7,} records: {operations}; {row['ms']:.2f} ms, {row['ms'] / first:.2f} of 20 records"
            )
    print(f"append / one exclusive create: {append:.2f}")
    print(f"compaction of 2,000 records: {compaction:.1f} s")


if __name__ == "__main__":
    main()
