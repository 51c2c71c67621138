"""The processes of the pool: jobs that hang, die or are too many, and an event loop that nothing holds up."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.pictures import noisy_jpeg
from gateway.waiting import LONG, until
from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import ModelConfig, Pool, ProcessorConfig
from tfs_deploy.gateway.problem import Problem
from tfs_deploy.gateway.processors.model_processors import ModelProcessors, make_model_processors
from tfs_deploy.gateway.processors.pool import ProcessorPool, WorkerProcess
from tfs_deploy.gateway.processors.protocol import Blob
from tfs_deploy.gateway.processors.registry import make_processor

ROOM = "gateway.pool_processors"


@asynccontextmanager
async def running(
    name: str = f"{ROOM}:Obedient", options: dict[str, Any] | None = None, **pool: Any
) -> AsyncIterator[tuple[ModelProcessors, ProcessorPool]]:
    """Yield the processors of one model, and the started pool in which they run."""
    model = ModelConfig(processor=ProcessorConfig(name=name, options=options or {}))
    made, processes = make_model_processors({"m": model}, Pool(**{"workers": 1, **pool}))
    assert processes is not None
    try:
        await processes.start()
        yield made["m"], processes
    finally:
        await processes.stop()


async def double(processors: ModelProcessors, items: Sequence[Any], seconds: float = LONG) -> Any:
    (batch,) = await processors.preprocess(items, deadline=time.monotonic() + seconds)
    return batch.inputs


async def refused(processors: ModelProcessors, item: Any, seconds: float = LONG) -> Problem:
    with pytest.raises(Problem) as caught:
        await double(processors, [1, item], seconds)
    return caught.value


def alive(pid: int) -> bool:
    """Tell whether the process runs; one that ended and was not looked at yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_jobs_run_in_another_process_and_end_with_the_pool() -> None:
    async def scenario() -> None:
        async with running() as (processors, _):
            inputs = await double(processors, [1, 2])
            assert inputs["x"].tolist() == [2, 4]
            pid = int(inputs["pid"][0])
            assert pid != os.getpid()
            batch = (await processors.preprocess([5], deadline=time.monotonic() + LONG))[0]
            deadline = time.monotonic() + LONG
            assert await processors.postprocess(batch, {"x": np.array([7])}, deadline=deadline) == [7]
        assert not alive(pid)

    asyncio.run(scenario())


def test_large_arrays_come_whole() -> None:
    async def scenario() -> None:
        async with running() as (processors, _):
            inputs = await double(processors, ["large"])
            np.testing.assert_array_equal(inputs["x"], np.arange(3_000_001, dtype=np.float64).reshape(1, -1))
            assert inputs["s"].tolist() == [b"a\0"]

    asyncio.run(scenario())


def test_what_a_processor_raises(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running() as (processors, _):
            told = await refused(processors, "bad")
            assert (told.status, told.extra) == (422, {"item": 1})
            assert "Item 1 is not to its liking." in told.detail
            told = await refused(processors, "raise")
            assert told.status == 500
            assert "secret" not in str(told)
            assert (await refused(processors, "nothing")).status == 500
            assert (await double(processors, [4]))["x"].tolist() == [8]

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert "ZeroDivisionError: a secret" in caplog.text


def test_a_job_that_takes_its_process_down_ends_alone() -> None:
    async def scenario() -> None:
        async with running(workers=2) as (processors, _):
            outcomes = await asyncio.gather(
                refused(processors, "die"), *(double(processors, [number]) for number in range(20))
            )
            assert outcomes[0].status == 500
            assert [int(one["x"][0]) for one in outcomes[1:]] == [2 * number for number in range(20)]

    asyncio.run(scenario())


def test_a_process_that_died_idle_costs_no_request() -> None:
    async def scenario() -> None:
        async with running() as (processors, _):
            pid = int((await double(processors, [1]))["pid"][0])
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not alive(pid))
            inputs = await double(processors, [3])
            assert inputs["x"].tolist() == [6]
            assert int(inputs["pid"][0]) != pid

    asyncio.run(scenario())


def test_a_process_that_cannot_be_started_for_a_while_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    start, failed = WorkerProcess.start, []

    async def short_of_descriptors(one: WorkerProcess, seconds: float) -> None:
        if not failed:
            failed.append(one)
            raise OSError(errno.EMFILE, "Too many open files")
        await start(one, seconds)

    async def scenario() -> None:
        async with running() as (processors, _):
            pid = int((await double(processors, [1]))["pid"][0])
            monkeypatch.setattr(WorkerProcess, "start", short_of_descriptors)
            os.kill(pid, signal.SIGKILL)
            assert (await double(processors, [2]))["x"].tolist() == [4]
            assert failed

    asyncio.run(scenario())


def test_a_job_that_hangs_is_ended_with_its_process() -> None:
    async def scenario() -> None:
        async with running(timeout_seconds=1.0) as (processors, _):
            pid = int((await double(processors, [1]))["pid"][0])
            told = await refused(processors, "sleep")
            assert told.status == 504
            assert "longer than 1 s" in told.detail
            assert (await double(processors, [3]))["x"].tolist() == [6]
            assert not alive(pid)

    asyncio.run(scenario())


def test_a_client_waits_for_its_deadline_and_no_longer() -> None:
    async def scenario() -> None:
        async with running(timeout_seconds=600.0) as (processors, pool):
            assert (await refused(processors, "sleep", seconds=0.3)).status == 504
            # Now the only process is busy, for longer than this test may take.
            assert (await refused(processors, 1, seconds=0.3)).status == 504
            assert pool.waiting == 0

    asyncio.run(scenario())


def test_a_client_that_goes_away_leaves_the_pool_whole() -> None:
    async def scenario() -> None:
        async with running(timeout_seconds=1.0) as (processors, pool):
            task = asyncio.ensure_future(double(processors, ["sleep"]))
            queued = asyncio.ensure_future(double(processors, [1]))
            await until(lambda: pool.waiting == 1)
            task.cancel()
            queued.cancel()
            await asyncio.gather(task, queued, return_exceptions=True)
            assert pool.waiting == 0
            assert (await double(processors, [3]))["x"].tolist() == [6]

    asyncio.run(scenario())


def test_jobs_beyond_the_queue_are_turned_away() -> None:
    async def scenario() -> None:
        async with running(queue=2, timeout_seconds=2.0) as (processors, pool):
            jobs = [asyncio.ensure_future(double(processors, [item])) for item in ("sleep", 1, 2)]
            await until(lambda: pool.waiting == 2)
            told = await refused(processors, 3)
            assert (told.status, told.headers["Retry-After"]) == (429, "1")
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            assert isinstance(outcomes[0], Problem)
            assert [one["x"].tolist() for one in outcomes[1:]] == [[2], [4]]

    asyncio.run(scenario())


def test_items_of_their_own_and_items_spread_over_the_processes() -> None:
    async def scenario() -> None:
        deadline = time.monotonic() + 60
        async with running(f"{ROOM}:OneByOne", workers=2) as (processors, _):
            batches = await processors.preprocess([1, 2, 3], deadline=deadline)
            assert [(batch.inputs["x"].tolist(), batch.rows) for batch in batches] == [([2], 1), ([4], 1), ([6], 1)]
            with pytest.raises(Problem, match=r"Item 2 is not to its liking"):
                await processors.preprocess([1, 2, "bad"], deadline=deadline)
        async with running(f"{ROOM}:Spread", workers=2) as (processors, _):
            (batch,) = await processors.preprocess([1, 2, 3, 4, 5], deadline=deadline)
            assert batch.inputs["x"].tolist() == [2, 4, 6, 8, 10]
            assert len(set(batch.inputs["pid"].tolist())) == 2
            with pytest.raises(Problem, match=r"Item 4 is not to its liking") as caught:
                await processors.preprocess([1, 2, 3, 4, "bad"], deadline=deadline)
            assert caught.value.extra == {"item": 4}

    asyncio.run(scenario())


def test_what_cannot_be_made_in_the_processes_is_told_at_the_start() -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidInput, match=r"FileNotFoundError: vocabulary\.txt"):
            async with running(f"{ROOM}:Unstartable", {"parent": os.getpid()}):
                pass

    asyncio.run(scenario())


def test_processes_end_with_a_gateway_that_is_killed() -> None:
    code = (
        "import asyncio, os, sys, time\n"
        "from tfs_deploy.gateway.config import ProcessorConfig\n"
        "from tfs_deploy.gateway.processors.pool import ProcessorPool\n"
        "async def main():\n"
        f"    specs = {{'k': ProcessorConfig(name='{ROOM}:Obedient')}}\n"
        "    pool = ProcessorPool(specs, workers=2, queue=8, timeout_seconds=60)\n"
        "    await pool.start()\n"
        "    deadline = time.monotonic() + 120\n"
        "    busy = asyncio.ensure_future(pool.run('k', 'preprocess', [('sleep',)], deadline=deadline))\n"
        "    idle = await pool.run('k', 'preprocess', [(1,)], deadline=deadline)\n"
        "    import multiprocessing\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__': asyncio.run(main())\n"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as gateway:
        assert gateway.stdout is not None
        pids = [int(word) for word in gateway.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        gateway.kill()
        gateway.wait()
        end = time.monotonic() + LONG
        while any(map(alive, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(alive, pids))


async def watched(work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Return the seconds between each two looks at the clock, one a millisecond, while `work` is done."""
    gaps: list[float] = []

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0.02)
    gaps.clear()
    await work()
    watching.cancel()
    return gaps


def test_the_loop_goes_on_while_large_pictures_are_decoded() -> None:
    """12 photographs of 12 megapixels, of which the model gets 12 MB each: nobody waits for them.

    A busy machine holds the loop up now and then; decoding in the loop would hold it up at each of them.
    """
    photograph = Blob(noisy_jpeg(4000, 3000), "image/jpeg")
    options = {"multiple_of": 32, "max_side": 1184}

    async def scenario() -> tuple[list[float], float]:
        async with running("images", options, workers=2, timeout_seconds=60.0) as (processors, _):
            await processors.preprocess([photograph], deadline=time.monotonic() + 60)

            async def work() -> None:
                batches = await processors.preprocess([photograph] * 12, deadline=time.monotonic() + 120)
                assert [batch.inputs["images"].shape for batch in batches] == [(1, 896, 1184, 3)] * 12

            gaps = await watched(work)
        spec = ProcessorConfig(name="images", options=options)
        started = time.perf_counter()
        make_processor(spec).preprocess([photograph])
        return gaps, time.perf_counter() - started

    gaps, one = asyncio.run(scenario())
    told = f"longest gap of the loop {max(gaps) * 1000:.1f} ms; one takes {one * 1000:.0f} ms"
    print(f"12 photographs in {sum(gaps):.2f} s, {told}")
    assert sum(gap > one / 2 for gap in gaps) < 6
    assert len(gaps) > 100


@pytest.mark.parametrize(
    ("item", "beside"),
    [
        (1.5, False),
        ([[1.5] * 50] * 50, False),
        ([[[1.5] * 3] * 100] * 100, True),
        ({"a": 1, "b": [[1] * 200] * 200}, True),
        ("a" * 20_000, True),
        (Blob(bytes(20_000)), True),
        ({"b64": "AAAA"}, False),
        ([], False),
    ],
)
def test_large_items_outside_of_the_pool_are_processed_beside_the_loop(item: Any, beside: bool) -> None:
    async def thread_of(name: str) -> int:
        processors = ModelProcessors("m", ModelConfig(processor=ProcessorConfig(name=f"{ROOM}:{name}")))
        deadline = time.monotonic() + 30
        (batch,) = await processors.preprocess([item], deadline=deadline)
        assert await processors.postprocess(batch, {"x": np.zeros(1)}, deadline=deadline) == [threading.get_ident()]
        (after,) = await processors.postprocess(batch, {"x": np.zeros((1, 20_000))}, deadline=deadline)
        assert (after != threading.get_ident()) == (name == "Reentrant")
        return int(batch.inputs["thread"][0])

    async def scenario() -> None:
        assert (await thread_of("Reentrant") != threading.get_ident()) == beside
        assert await thread_of("NotReentrant") == threading.get_ident()

    asyncio.run(scenario())
