"""The placeholder on an agent's disk: from the package, while the desired state or a deployer asks for it."""

from __future__ import annotations

import errno
import os

import pytest

from placeholder_files import write_placeholder
from store.faults import FaultyFilesystem, failing
from sync.bench import GROUP, Bench, Wrapped, problems, settle
from tfs_deploy.deployment import sync_requests
from tfs_deploy.deployment.desired_state import DesiredModel
from tfs_deploy.deployment.sync_agents import AgentErrorKind
from tfs_deploy.deployment.sync_requests import SyncRequest, SyncRequests
from tfs_deploy.jsonable import to_json
from tfs_deploy.savedmodel import placeholder
from tfs_deploy.serving.config import from_text


def ask(bench: Bench, *models: str) -> None:
    """Make these the group's requests for the placeholder."""
    requests = SyncRequests(tuple(SyncRequest(model, 0, "2100-01-01T00:00:00+00:00") for model in models))
    document = bench.store.documents.read(sync_requests.key(GROUP))
    tag = document.tag if document else None
    bench.store.documents.write(sync_requests.key(GROUP), to_json(requests), expected=tag)


def names(bench: Bench, model: str = "m") -> list[str]:
    base = bench.root / model
    return sorted(os.listdir(base)) if base.is_dir() else []


def listed(*versions: int) -> DesiredModel:
    return DesiredModel("/models/m", versions)


def test_it_comes_from_the_package_while_a_deployer_asks_for_it(bench):
    store = Wrapped(bench.store)
    agent = bench.agent(store=store)
    ask(bench, "m")
    agent.poll()
    assert names(bench) == ["0"]
    files = placeholder.files()
    assert {path: (bench.root / "m/0" / path).read_bytes() for path in files} == dict(files)
    assert bench.report().held == {"m": (0,)}
    assert bench.report().holds("m", 0)
    assert not {"download", "manifest"} & set(store.calls), "the store has no such version"
    ask(bench)
    agent.poll()
    assert names(bench) == []
    assert bench.report().held == {}


def test_it_stays_while_the_desired_state_lists_it_and_goes_at_once_afterwards(bench):
    agent = bench.agent()
    ask(bench, "m")
    agent.poll()
    bench.want(m=listed(0))
    ask(bench)
    for _ in range(3):
        bench.clock.advance(1000.0)
        agent.poll()
        assert names(bench) == ["0"]
    assert bench.publish() == 1
    bench.want(m=listed(0, 1))
    settle(agent, bench.clock)
    assert names(bench) == ["0", "1"]
    assert bench.report().held == {"m": (0, 1)}
    assert agent.status.ready
    bench.want(m=listed(1))
    agent.poll()
    assert names(bench) == ["1"]
    assert agent.status.ready
    assert bench.report().held == {"m": (1,)}


def test_it_is_in_no_start_up_file(bench):
    bench.publish()
    bench.want(m=listed(0))
    agent = bench.agent()
    settle(agent, bench.clock)
    assert from_text(bench.startup_config.read_text()) == ()
    bench.want(m=DesiredModel("/models/m", (0, 1), {"stable": 1}))
    settle(agent, bench.clock)
    (entry,) = from_text(bench.startup_config.read_text())
    assert entry.versions == (1,)


def test_without_an_answer_of_the_store_it_stays(bench):
    store = Wrapped(bench.store)
    agent = bench.agent(store=store)
    bench.want(m=listed(0))
    agent.poll()
    bench.want(m=listed(1))
    store.away = True
    agent.poll()
    assert names(bench) == ["0"]


def test_a_restarted_agent_removes_the_one_that_nobody_needs_any_more(bench):
    bench.want(m=listed(0))
    bench.agent().poll()
    bench.want(other=DesiredModel("/models/other", (0,)))
    agent = bench.agent()
    agent.poll()
    assert (names(bench), names(bench, "other")) == ([], ["0"])
    for mode in ({"latest": ("m",)}, {}):
        write_placeholder(bench.root / "m" / "0")
        bench.publish()
        settle(bench.agent(**mode), bench.clock)
        assert "0" not in names(bench), "a server that follows the highest number does not meet it"


def test_a_version_0_of_another_tool_is_reported_and_never_touched(bench):
    bench.want(m=listed(0))
    (bench.root / "m/0").mkdir(parents=True)
    (bench.root / "m/0/saved_model.pb").write_bytes(b"another model")
    agent = bench.agent()
    for _ in range(3):
        agent.poll()
        bench.clock.advance(100.0)
    assert problems(agent) == [(AgentErrorKind.DIFFERS, "m", 0)]
    assert bench.report().held == {}
    assert "by hand" in bench.report().problem_with("m", 0).message
    assert bench.report().problem_with("m", 1) is None, "it is no problem of other versions"
    assert not agent.status.ready
    bench.want()
    agent.poll()
    assert (bench.root / "m/0/saved_model.pb").read_bytes() == b"another model"
    assert problems(agent) == []


def test_a_full_disk_keeps_it_away_only_until_there_is_space(bench):
    bench.want(m=listed(0), n=DesiredModel("/models/n", (0,)))
    agent = bench.agent(files=FaultyFilesystem(8, failing(errno.ENOSPC)))
    agent.poll()
    assert [problem[0] for problem in problems(agent)] == [AgentErrorKind.DISK_FULL]
    bench.clock.advance(10.0)
    agent.poll()
    assert (names(bench), names(bench, "n")) == (["0"], ["0"])
    assert agent.status.ready


class Killed(BaseException):
    """The agent ends at this step."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("putting", [True, False], ids=["put", "remove"])
def test_an_agent_that_dies_at_any_step_leaves_it_whole_or_not_there(tmp_path, putting, after):
    def kill() -> None:
        raise Killed

    points = 0
    for at in range(1, 200):
        (tmp_path / str(at)).mkdir()
        bench = Bench(tmp_path / str(at))
        bench.want(m=listed(0))
        if not putting:
            bench.agent().poll()
            bench.want(m=listed(1))
        files = FaultyFilesystem(at, kill, after=after)
        try:
            agent = bench.agent(files=files)
            agent.poll()
        except Killed:
            points += 1
        if "0" in names(bench):
            assert set(placeholder.files()) <= {
                str(path.relative_to(bench.root / "m/0")) for path in (bench.root / "m/0").rglob("*")
            }
        again = bench.agent()
        again.poll()
        assert names(bench) == (["0"] if putting else [])
        if files.steps < at:
            break
    assert points > 4
