"""Bad input on two real replicas: one sentence that names what and what to do, and nothing changed."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cli.replicas import PLUS_THREE, PLUS_TWO, PLUS_TWO_TF2, Site, as_json, copy_of, told
from embedded_server import EmbeddedServer, free_port
from tfs_deploy.deployment.session import open_session
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.savedmodel.requests import GoldenRequest, write_golden
from tfs_deploy.serving.group import ServingGroup
from tfs_deploy.store.open import open_store

pytestmark = pytest.mark.tensorflow

MODEL = "half_plus_two"


@pytest.fixture(scope="module")
def site(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two replicas with version 1 as `previous` and version 2 as `stable`."""
    store = tmp_path_factory.mktemp("site") / "store"
    with EmbeddedServer() as first, EmbeddedServer() as second:
        site = Site(store, (first.target, second.target))
        for source in (PLUS_TWO, PLUS_THREE):
            ran = site.child("deploy", shared_models / source, "--model", MODEL)
            assert ran.code == 0, ran.err
        yield site


@pytest.fixture
def unchanged(site: Site) -> Iterator[None]:
    """Prove that the test changed nothing: every file of the store, and what `stable` answers."""
    before, answers = site.snapshot(), site.answers(MODEL)
    yield
    assert site.snapshot() == before
    assert site.answers(MODEL) == answers
    assert [version for version, _ in answers] == [2, 2]


WHEN = "2026-01-01T00:00:00Z"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "nobody", 1),
        ("validate", "nobody", 1),
        ("promote", "nobody", 1),
        ("rollback", "nobody"),
        ("reject", "nobody", 1, "--reason", "a test"),
        ("retire", "nobody"),
        ("status", "nobody"),
        ("history", "nobody"),
        ("what-served", "nobody", "--at", WHEN),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unknown_model(site: Site, arguments: tuple[object, ...]) -> None:
    ran = site.run(*arguments)
    assert ran.code == 2
    assert "'nobody'" in told(ran)
    as_json(site.run(*arguments, "--json"))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "arguments",
    [
        ("load", MODEL, 99),
        ("validate", MODEL, 99),
        ("promote", MODEL, 99),
        ("rollback", MODEL, "--to", 99),
        ("reject", MODEL, 99, "--reason", "a test"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unknown_version(site: Site, arguments: tuple[object, ...]) -> None:
    ran = site.run(*arguments)
    assert ran.code == 2
    assert "99" in told(ran)
    assert MODEL in told(ran)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "arguments",
    [
        ("load", MODEL, "blue"),
        ("validate", MODEL, "blue"),
        ("promote", MODEL, "blue"),
        ("rollback", MODEL, "--to", "blue"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unknown_label(site: Site, arguments: tuple[object, ...]) -> None:
    ran = site.run(*arguments)
    assert ran.code == 2
    assert "'blue'" in told(ran)
    assert "previous = 1, stable = 2" in told(ran)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("version", ["0", "1.5", "9223372036854775808", "bl ue", "bl/ue"])
def test_a_version_that_is_none(site: Site, version: str) -> None:
    ran = site.run("promote", MODEL, version)
    assert ran.code == 2
    assert version in told(ran)


# What needs every replica, unlike a rollback; promoting the version that is stable already repairs replicas.
STEPS = [("load", MODEL, 1), ("promote", MODEL, 2), ("publish",), ("deploy",)]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("arguments", STEPS, ids=lambda arguments: arguments[0])
def test_unreachable_server(site: Site, shared_models: Path, arguments: tuple[object, ...]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    if len(arguments) == 1:
        arguments = (*arguments, shared_models / PLUS_TWO_TF2, "--model", MODEL)

    ran = site.run(*arguments, "--target", f"{site.targets[0]},{nobody}")

    assert ran.code == 3
    assert nobody in told(ran)


def test_unreachable_server_leaves_a_validation_undecided(site: Site) -> None:
    before = site.answers(MODEL)
    nobody = f"127.0.0.1:{free_port()}"

    ran = site.run("validate", MODEL, 1, "--target", f"{site.targets[0]},{nobody}", "--json")

    assert ran.code == 3
    assert ran.json["verdict"] == "inconclusive"
    assert nobody in ran.json["reason"]
    assert site.answers(MODEL) == before
    # The last word on version 1 decides whether one may go back to it, so the tests after this one need a good one.
    assert site.run("validate", MODEL, 1).code == 0


@pytest.mark.usefixtures("unchanged")
def test_status_of_an_unreachable_server_shows_the_others(site: Site) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    ran = site.run("status", MODEL, "--target", f"{site.targets[0]},{nobody}", "--json")
    assert ran.code == 3
    assert ran.json["unreachable"] == [nobody]
    assert ran.json["models"][MODEL]["replicas"][site.targets[0]]["labels"]["stable"] == 2


class _Web(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def web_port() -> Iterator[int]:
    """A port behind which a web server listens."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def banner_port() -> Iterator[int]:
    """A port behind which something greets in plain text, as SSH and SMTP do."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    threading.Thread(target=greet, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("kind", ["web_port", "banner_port"])
@pytest.mark.parametrize("arguments", STEPS, ids=lambda arguments: arguments[0])
def test_a_port_that_answers_something_else(
    site: Site, shared_models: Path, request: pytest.FixtureRequest, kind: str, arguments: tuple[object, ...]
) -> None:
    port = request.getfixturevalue(kind)
    if len(arguments) == 1:
        arguments = (*arguments, shared_models / PLUS_TWO_TF2, "--model", MODEL)

    ran = site.run(*arguments, "--target", f"127.0.0.1:{port}")

    assert ran.code in {1, 3}
    assert f"127.0.0.1:{port}" in told(ran)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("command", ["deploy", "validate"])
@pytest.mark.parametrize(
    ("signature", "input_", "dtype", "output", "named"),
    [
        ("serving_default", "x", np.int64, "y", "x"),
        ("serving_default", "z", np.float32, "y", "z"),
        ("nothing", "x", np.float32, "y", "nothing"),
        ("serving_default", "x", np.float32, "w", "w"),
    ],
    ids=["dtype", "input", "signature", "output"],
)
def test_golden_file_that_does_not_fit_the_signature(
    site: Site,
    shared_models: Path,
    tmp_path: Path,
    command: str,
    signature: str,
    input_: str,
    dtype: type,
    output: str,
    named: str,
) -> None:
    # The TensorFlow 2 model takes a vector, the TensorFlow 1 model that is live a column.
    shape = (1,) if command == "deploy" else (1, 1)
    request = GoldenRequest(signature, {input_: np.zeros(shape, dtype)}, {output: np.zeros(shape, np.float32)})
    write_golden(tmp_path / "golden", MODEL, (request,))
    gates = tmp_path / "gates.yaml"
    gates.write_text("golden: {file: golden}\n")
    what = (shared_models / PLUS_TWO_TF2, "--model", MODEL) if command == "deploy" else (MODEL, 2)

    ran = site.run(command, *what, "--gates", gates)

    assert ran.code == 2
    assert f"'{named}'" in told(ran)
    assert str(tmp_path / "golden") in told(ran)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("content", [b"not a TFRecord", None], ids=["junk", "missing"])
def test_golden_file_that_is_none(site: Site, shared_models: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "golden").write_bytes(content)
    gates = tmp_path / "gates.yaml"
    gates.write_text("golden: {file: golden}\n")
    ran = site.run("deploy", shared_models / PLUS_TWO_TF2, "--model", MODEL, "--gates", gates)
    assert ran.code == 2
    assert str(tmp_path / "golden") in told(ran)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("command", ["deploy", "publish"])
def test_missing_variables_are_seen_before_anything_is_published(
    site: Site, shared_models: Path, tmp_path: Path, command: str
) -> None:
    broken = copy_of(shared_models / PLUS_TWO_TF2, tmp_path / "broken", without="variables")
    ran = site.run(command, broken, "--model", MODEL)
    assert ran.code == 1
    assert "variables/variables.index is missing" in told(ran)


def test_a_version_that_loads_but_cannot_predict_never_becomes_stable(
    site: Site, shared_models: Path, tmp_path: Path
) -> None:
    """It lost its variables in the store: it is AVAILABLE on every replica, and only the gates can tell."""
    before = site.answers(MODEL)
    whole = copy_of(shared_models / PLUS_TWO_TF2, tmp_path / "whole")
    (whole / "assets.extra").mkdir()
    (whole / "assets.extra" / "note.txt").write_text("other bytes than the version that is live")
    group = ServingGroup("default", site.targets, str(site.store))
    with open_session(open_store(str(site.store)), group, actor="a test") as session:
        version = publish(session, whole, MODEL).version.version
    shutil.rmtree(site.store / MODEL / str(version) / "variables")

    loaded = site.run("load", MODEL, version)
    assert loaded.code == 0, loaded.err
    validated = site.run("validate", MODEL, version)
    assert validated.code == 1
    assert "gate prediction" in " ".join(validated.out.split())
    promoted = site.run("promote", MODEL, version)
    assert promoted.code == 1
    assert "gate prediction" in told(promoted)
    assert site.answers(MODEL) == before
    assert site.run("reject", MODEL, version, "--reason", "cannot predict").code == 0
    assert site.answers(MODEL) == before


def _without_root_powers() -> tuple[str, ...]:
    """Return the start of a command line to which permission bits count even if the tests run as root."""
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("command", ["publish", "deploy", "promote"])
def test_a_store_that_is_not_writable(site: Site, shared_models: Path, command: str) -> None:
    what = (MODEL, 1) if command == "promote" else (shared_models / PLUS_TWO_TF2, "--model", MODEL)
    folders = [site.store, *(path for path in site.store.rglob("*") if path.is_dir())]
    modes = {path: path.stat().st_mode for path in folders}
    try:
        for path in folders:
            path.chmod(0o555)
        ran = site.child(command, *what, by=_without_root_powers())
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert ran.code == 2
    assert str(site.store) in told(ran)


@pytest.mark.usefixtures("unchanged")
def test_a_store_that_is_not_there(site: Site, shared_models: Path, tmp_path: Path) -> None:
    ran = site.run("deploy", shared_models / PLUS_TWO, "--model", MODEL, "--store", tmp_path / "no" / "where")
    assert ran.code == 2
    assert str(tmp_path / "no" / "where") in told(ran)
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["a/b", "..", "../x", ".hidden", "/etc", ""])
@pytest.mark.parametrize("command", ["deploy", "publish", "load", "promote", "rollback", "retire", "status", "history"])
def test_a_model_name_that_is_no_name(site: Site, shared_models: Path, command: str, name: str) -> None:
    what: dict[str, tuple[object, ...]] = {
        "deploy": (shared_models / PLUS_TWO_TF2, "--model", name),
        "publish": (shared_models / PLUS_TWO_TF2, "--model", name),
        "load": (name, 1),
        "promote": (name, 1),
    }
    ran = site.run(command, *what.get(command, (name,)))
    assert ran.code == 2
    assert repr(name) in told(ran)
    assert "Use letters, digits" in told(ran)


@pytest.mark.usefixtures("unchanged")
def test_a_real_process_answers_bad_input_in_json_too(site: Site) -> None:
    ran = site.child("promote", MODEL, 99, "--json")
    assert ran.code == 2
    assert "99" in str(as_json(ran)["error"])
    assert ran.err == ""
