"""The whole protocol with models that this project did not write, on two real replicas."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking_clients import AskingClients, X
from embedded_server import EmbeddedServer
from tfs_deploy.deployment.modes import latest, steps_of
from tfs_deploy.deployment.session import GroupSession, open_session
from tfs_deploy.deployment.steps.load import load, wait_until_available
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.rollback import rollback
from tfs_deploy.deployment.steps.status import status
from tfs_deploy.deployment.steps.validate import validate
from tfs_deploy.errors import CorruptModel, NotFound, ValidationFailed
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.group import Mode, ServingGroup
from tfs_deploy.serving.runner import EmbeddedRunner
from tfs_deploy.serving.waiting import WaitLimits
from tfs_deploy.store.open import open_store
from tfs_deploy.validation.config import Gates, gates_from
from tfs_deploy.validation.report import Verdict

pytestmark = pytest.mark.tensorflow

PLUS_TWO_TF1 = "half_plus_two_2_versions/00000123"
PLUS_TWO_TF2 = "half_plus_two_tf2_cpu/00000123"
PLUS_THREE = "half_plus_three/00000123"


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with EmbeddedServer() as first, EmbeddedServer() as second:
        yield first, second


@pytest.fixture
def session(replicas, tmp_path) -> Iterator[GroupSession]:
    root = tmp_path / "store"
    root.mkdir()
    targets = tuple(server.target for server in replicas)
    group = ServingGroup("default", targets, str(root), startup_config=str(tmp_path / "models.config"))
    with open_session(open_store(str(root)), group, actor="a test", wait=WaitLimits(load=60.0)) as opened:
        yield opened
        # The servers live on for the next test: give them back empty.
        from tfs_deploy.serving.config import to_proto

        opened.call_all(lambda client: client.reload(to_proto([]), timeout=60.0))


def go(session: GroupSession, directory: Path, model: str, gates: Gates = Gates()):
    return steps_of(session).deploy(session, directory, model, gates, make_runner=EmbeddedRunner)


def answers(session, model: str, label: str | None = "stable", x=X) -> list[tuple[int, list[float]]]:
    replies = (client.predict(model, {"x": x}, label=label, timeout=30.0) for client in session.clients.values())
    return [(reply.version, reply.outputs["y"].ravel().tolist()) for reply in replies]


def test_foreign_models_go_all_the_way_and_back(session, shared_models):
    model = "foreign"
    first = go(session, shared_models / PLUS_TWO_TF1, model).published.version.version
    assert answers(session, model) == [(first, [2.5, 3.0, 4.5])] * 2
    second = go(session, shared_models / PLUS_THREE, model).published.version.version
    assert answers(session, model) == [(second, [3.5, 4.0, 5.5])] * 2
    assert go(session, shared_models / PLUS_THREE, model).published.created is False
    assert rollback(session, model).version == first
    assert answers(session, model) == [(first, [2.5, 3.0, 4.5])] * 2
    report = status(session, model)
    assert report.drift == ""
    assert report.models[model].observed.replicas[0].labels == {"stable": first, "previous": second}
    # A TensorFlow 2 export, under a name of its own because its input has another rank.
    version = go(session, shared_models / PLUS_TWO_TF2, "foreign_tf2").published.version.version
    assert answers(session, "foreign_tf2", x=X[0]) == [(version, [2.5])] * 2
    assert answers(session, model) == [(first, [2.5, 3.0, 4.5])] * 2


def test_a_version_that_answers_wrongly_is_refused_while_clients_go_on(session, shared_models, tmp_path):
    model = "guarded"
    golden = tmp_path / "golden.tfrecord"
    write_golden(golden, model, [GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2})])
    gates = gates_from({"golden": {"file": str(golden)}})
    good = go(session, shared_models / PLUS_TWO_TF1, model, gates).published.version.version
    with AskingClients(session.clients, model) as clients:
        with pytest.raises(ValidationFailed, match="golden"):
            go(session, shared_models / PLUS_THREE, model, gates)
        better = go(session, variant(shared_models, tmp_path), model, gates).published.version.version
        rollback(session, model)
    assert clients.failures == []
    assert clients.versions == {good, better}
    assert clients.count > 20
    assert better > good + 1, "the number of the refused version is not used again"


def test_a_version_without_variables_is_refused_before_and_after_it_is_published(session, shared_models, tmp_path):
    model = "hollow"
    good = go(session, shared_models / PLUS_TWO_TF1, model).published.version.version
    hollow = Path(shutil.copytree(shared_models / PLUS_THREE, tmp_path / "hollow"))
    shutil.rmtree(hollow / "variables")
    with pytest.raises(CorruptModel, match=r"variables/variables\.index is missing"):
        go(session, hollow, model)
    assert session.store.versions(model) == (good,)
    # Lost in the store after it was published: the server says AVAILABLE, and only a request shows the truth.
    lost = publish(session, shared_models / PLUS_THREE, model).version
    shutil.rmtree(Path(lost.uri) / "variables")
    load(session, model, lost.version)
    wait_until_available(session, model, lost.version)
    report = validate(session, model, lost.version, Gates())
    assert report.verdict is Verdict.FAIL
    assert "uninitialized value" in report.reason()
    assert "\n" not in report.reason()
    assert answers(session, model) == [(good, [2.5, 3.0, 4.5])] * 2


def test_a_group_in_mode_latest_validates_before_it_publishes(tmp_path, shared_models):
    root = tmp_path / "store"
    (root / "newest").mkdir(parents=True)
    model, golden = "newest", tmp_path / "golden.tfrecord"
    write_golden(golden, model, [GoldenRequest("serving_default", {"x": X}, {"y": X / 2 + 2})])
    gates = gates_from({"golden": {"file": str(golden)}})
    flags = (f"--model_name={model}", f"--model_base_path={root / model}", "--max_num_load_retries=0")
    server = EmbeddedServer(flags, wait=False).start()
    try:
        group = ServingGroup("newest", (server.target,), str(root), mode=Mode.LATEST)
        store = open_store(str(root))
        with open_session(store, group, actor="a test") as opened:
            # A server with an empty base path opens no port; the first version wakes it.
            assert not server.answers()
            assert go(opened, shared_models / PLUS_TWO_TF1, model, gates).record.previous is None
            assert answers(opened, model, None) == [(1, [2.5, 3.0, 4.5])]
            with pytest.raises(ValidationFailed):
                go(opened, shared_models / PLUS_THREE, model, gates)
            assert store.versions(model) == (1,), "nothing was published"
            assert go(opened, variant(shared_models, tmp_path), model, gates).record.previous == 1
            assert answers(opened, model, None) == [(2, [2.5, 3.0, 4.5])]
            assert latest.rollback(opened, model, idempotency_key="once").version == 1
            assert latest.rollback(opened, model, idempotency_key="once").version == 1
            assert answers(opened, model, None) == [(1, [2.5, 3.0, 4.5])]
            with pytest.raises(NotFound, match="no version below"):
                latest.rollback(opened, model)
    finally:
        server.stop()


def variant(shared_models: Path, folder: Path) -> Path:
    """Return a model that answers as half_plus_two does and has another fingerprint."""
    directory = Path(shutil.copytree(shared_models / PLUS_TWO_TF1, folder / "variant"))
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "note.txt").write_text(f"trained in {folder.name}")
    return directory


def _clock():
    from tfs_deploy.clock import SystemClock

    return SystemClock()
