"""Fixtures of the contract suite: the model server that is tried, models that it can read, one place per test.

    pytest tests/contract/model_server --server-command "tensorflow_model_server"

Flags are appended to the command. Every path in a flag or a config lies below --model-root, so that it can be mounted;
the command finds that directory in the environment as MODEL_ROOT.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.model_server.place import RPC_DRIVEN_FLAGS, Start
from embedded_server import COMMAND, EmbeddedServer, free_port
from modelserver.models_on_disk import install_copy, models_of_this_run
from modelserver.rest_wire import Rest
from modelserver.wire import Wire, eventually, model, wait_state


@pytest.fixture(scope="session")
def server_command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What starts the model server that is tried."""
    return tuple(shlex.split(request.config.getoption("--server-command") or "")) or COMMAND


@pytest.fixture(scope="session")
def model_root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of this session below --model-root; the model server sees everything below it under the same path."""
    given = request.config.getoption("--model-root")
    above = Path(given).resolve() if given else tmp_path_factory.mktemp("model-root")
    above.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="contract-", dir=above))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MODEL_ROOT", str(above))
        # With oneDNN a request of the wrong rank ends a stock server (contract 20.1).
        environment.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        environment.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
        yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def start(server_command: tuple[str, ...], model_root: Path) -> Start:
    """Start the model server that is tried: ``with start("--flag=…") as server``; see EmbeddedServer."""

    def make(*flags: str, **options: object) -> EmbeddedServer:
        return EmbeddedServer(flags, command=server_command, below=model_root, **options)

    return make


@pytest.fixture(scope="session")
def models(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModels of make_models.py, by name; do not change them."""
    return Path(shutil.copytree(models_of_this_run(tmp_path_factory), model_root / "models"))


@pytest.fixture(scope="session")
def other_models(shared_models: Path, model_root: Path) -> Path:
    """The SavedModels that this project did not write, below the model root."""
    return Path(shutil.copytree(shared_models, model_root / "other_models"))


@pytest.fixture(scope="session")
def rest_port() -> int:
    """The REST port of the shared server."""
    return free_port()


@pytest.fixture(scope="session")
def server(start: Start, model_root: Path, rest_port: int) -> Iterator[EmbeddedServer]:
    """The shared server, started on ``model_config_list { }``, as an RPC-driven deployment runs it."""
    monitoring = model_root / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }\n')
    flags = (f"--rest_api_port={rest_port}", f"--monitoring_config_file={monitoring}")
    with start(*RPC_DRIVEN_FLAGS, *flags, "--enable_grpc_healthcheck_service=true") as started:
        yield started
        assert started.process is not None
        assert started.process.poll() is None, f"a test ended the server:\n{started.log()[-5000:]}"


@pytest.fixture(scope="module")
def rest(server: EmbeddedServer, rest_port: int, models: Path, other_models: Path, model_root: Path) -> Iterator[Rest]:
    """The shared server's REST port, with the models that the REST tests ask."""
    base = Path(tempfile.mkdtemp(prefix="rest-", dir=model_root))
    sources = {
        "m/2": "scale2", "m/3": "scale3", "shapes/1": "shapes", "examples/1": "examples", "s/1": "several",
        "r/1": "rest",
    }  # fmt: skip
    for name, source in sources.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(models / source)
    wire = Wire(server.target)
    configs = [model(name, base / name) for name in ("shapes", "examples", "s", "r")]
    configs.append(model("two", other_models / "half_plus_two_2_versions"))
    wire.reload(model("m", base / "m", 2, 3), *configs, timeout=60)
    for version in (2, 3):
        wait_state(wire, "m", version, "AVAILABLE")
    wire.reload(model("m", base / "m", 2, 3, labels={"stable": 2, "old one": 2}), *configs, timeout=60)
    yield Rest(rest_port)
    wire.reload()
    # The next module has the same names: a name that comes back before its end is never loaded (contract 5.3).
    for config in (*configs, model("m", base)):
        eventually(lambda name=config.name: set(wire.states(name).values()) == {"END"})
    wire.close()


@pytest.fixture
def wire(server: EmbeddedServer) -> Iterator[Wire]:
    """The shared server's wire; every model is gone from the config afterwards."""
    connected = Wire(server.target)
    yield connected
    connected.reload()
    connected.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name of the test's own: rows stay for the life of the server."""
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


@pytest.fixture
def place(model_root: Path, name: str) -> Path:
    """An empty directory of the test's own that the model server can read."""
    return Path(tempfile.mkdtemp(prefix=f"{name[:40]}-", dir=model_root))


@pytest.fixture
def install(models: Path, place: Path) -> Callable[..., Path]:
    """Put a copy of a model where the server sees it at once: ``install("scale2", 7)`` -> <place>/base/7."""

    def put(which: str, version: int | str, base: Path | None = None) -> Path:
        return install_copy(models / which, (base or place / "base") / str(version))

    return put
