"""The watch over the replicas of a model: it ends when it is told to, whatever happens at that moment."""

from __future__ import annotations

import asyncio

import pytest

from gateway.model_servers import Replica, group


@pytest.mark.parametrize("turns", range(8))
def test_an_end_at_the_moment_of_an_urgent_question_is_not_missed(turns: int) -> None:
    """A replica that was just ejected is to be asked at once; the end comes some turns of the loop after that."""

    async def run() -> None:
        async with group(Replica(), health={"interval_seconds": 30.0, "max_age_seconds": 30.0}) as upstream:
            for urgent in upstream._watch._probe_now.values():
                urgent.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            ended = asyncio.ensure_future(upstream.stop(0.0))
            await asyncio.wait({ended}, timeout=30.0)
            assert ended.done(), "the watch goes on"

    asyncio.run(run())
