"""A step of a deploy can be read in few files."""

from __future__ import annotations

from architecture.flows import STEPS, flows, table

# More files than this, and a reader loses the thread.
MOST_MODULES = 14


def test_no_step_enters_more_modules_of_the_deployment_than_a_reader_can_follow(tell) -> None:
    traced = flows()
    assert [flow.step for flow in traced] == list(STEPS)
    for flow in traced:
        assert 1 < len(flow.modules("deployment/")) <= MOST_MODULES, sorted(flow.modules("deployment/"))
    tell(table(traced))
