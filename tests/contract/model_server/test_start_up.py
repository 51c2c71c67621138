"""Start-up: what ends the process with 255 and which words, and what waits: contract 1, 20.5, 20.8 and 20.11."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.model_server.place import LOADERR, entry, write_config
from modelserver.wire import Wire, model, wait_state
from tfs_deploy.savedmodel.requests import WARMUP_PATH, WarmupRequest, write_warmup

pytestmark = pytest.mark.tensorflow

QUICK = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")


def good(root: Path) -> tuple[str, ...]:
    shutil.copytree(root.parent / "models" / "scale1", root / "m" / "1")
    return ("--model_name=m", f"--model_base_path={root}/m", *QUICK)


def latest_broken(root: Path) -> tuple[str, ...]:
    flags = good(root)
    (root / "m" / "2").mkdir()
    return flags


def only_broken(root: Path) -> tuple[str, ...]:
    (root / "m" / "1").mkdir(parents=True)
    return ("--model_name=m", f"--model_base_path={root}/m", *QUICK)


def malformed(root: Path) -> tuple[str, ...]:
    (root / "config").write_text("model_config_list { config { nam")
    return (f"--model_config_file={root}/config",)


def labels(root: Path) -> tuple[str, ...]:
    good(root)
    return (write_config(root / "config", entry("m", root / "m", 1, stable=1)), *QUICK)


def config_with(**fields: str) -> Callable[[Path], tuple[str, ...]]:
    def write(root: Path) -> tuple[str, ...]:
        good(root)
        told = entry("m", root / "m")
        for old, new in fields.items():
            told = told.replace(old, new)
        return (write_config(root / "config", told), *QUICK)

    return write


def empty_config(root: Path) -> tuple[str, ...]:
    (root / "config").write_text("")
    return (f"--model_config_file={root}/config",)


def logging_config(root: Path) -> tuple[str, ...]:
    good(root)
    return (write_config(root / "config", entry("m", root / "m", more="logging_config { }")), *QUICK)


def three_kinds_of_parallelism(root: Path) -> tuple[str, ...]:
    return (*good(root), *(f"--tensorflow_{name}_parallelism=1" for name in ("session", "intra_op", "inter_op")))


def no_session_config(root: Path) -> tuple[str, ...]:
    (root / "session").write_text("intra_op_parallelism_threads: many")
    return (*good(root), f"--tensorflow_session_config_file={root}/session")


def slow(root: Path, version: int) -> None:
    """Put a version of model m there whose warm-up takes some seconds."""
    directory = root / "m" / f"staged-{version}"
    shutil.copytree(root.parent / "models" / "several", directory)
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("spin", {"n": np.array(150_000, np.int32)})])
    directory.rename(root / "m" / str(version))


def all_of_m(root: Path) -> tuple[str, ...]:
    return (write_config(root / "config", entry("m", root / "m", more="model_version_policy { all { } }")), *QUICK)


def quick_failure_beside_slow_success(root: Path) -> tuple[str, ...]:
    (root / "m" / "1").mkdir(parents=True)
    slow(root, 2)
    return all_of_m(root)


def sizes_that_do_not_fit(root: Path) -> tuple[str, ...]:
    flags = good(root)
    (root / "batching").write_text("max_batch_size { value: 4 } allowed_batch_sizes: 2\n")
    return (*flags, "--enable_batching=true", f"--batching_parameters_file={root}/batching")


BAD_LABEL = (
    "FAILED_PRECONDITION: Request to assign label to version 1 of model m, "
    "which is not currently available for inference"
)
UNAVAILABLE = (
    "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
    "{{{name: m version: VERSION} due to error: NOT_FOUND: " + LOADERR + "ROOT/m/VERSION}, }"
)
# The flags, and what the process must say before it ends with 255; ROOT is the directory of the case.
EXITS = {
    "neither path nor config": (
        lambda root: (),
        "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path and "
        "server_options.model_config_file are empty!",
    ),
    "relative path": (
        lambda root: ("--model_base_path=models/m",),
        "INVALID_ARGUMENT: Expected model default to have an absolute path or URI; got base_path()=models/m",
    ),
    "malformed config": (malformed, "INVALID_ARGUMENT: Invalid protobuf file: 'ROOT/config'"),
    "missing config": (lambda root: (f"--model_config_file={root}/none",), "NOT_FOUND"),
    "labels without the flag": (labels, BAD_LABEL),
    "latest broken": (latest_broken, UNAVAILABLE.replace("VERSION", "2")),
    "only version broken": (only_broken, UNAVAILABLE.replace("VERSION", "1")),
    "unknown platform": (config_with(tensorflow="zz"), "Model m requests unsupported platform zz"),
    "batching parameters without batching": (
        lambda root: (*good(root), f"--batching_parameters_file={root}/none"),
        "server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
    ),
    "empty config": (empty_config, "INVALID_ARGUMENT: ROOT/config; Invalid argument"),
    "logging config": (logging_config, "INVALID_ARGUMENT: No request-logger-creator provided."),
    "session config": (no_session_config, "INVALID_ARGUMENT: Invalid protobuf file: 'ROOT/session'"),
    "three kinds of parallelism": (
        three_kinds_of_parallelism,
        "INVALID_ARGUMENT: Either configure server_options.tensorflow_session_parallelism or "
        "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) separately. "
        "You cannot configure all.",
    ),
    "broken beside slow": (quick_failure_beside_slow_success, UNAVAILABLE.replace("VERSION", "1")),
    "begins like a switch": (lambda root: (*good(root), "--enable_batchings=true"), "enable_batching"),
    "help": (lambda root: (*good(root), "--help"), "--file_system_poll_wait_seconds="),
    "allowed batch sizes": (
        sizes_that_do_not_fit, "INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size",
    ),
    "malformed flag": (lambda root: (*good(root), "--max_num_load_retries=many"), "max_num_load_retries"),
    "port 0": (lambda root: (*good(root), "--port=0"), "INVALID_ARGUMENT"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(start, model_root: Path, models: Path):
    """Exit status and log by case; two at a time, because most of a case is waiting."""

    def run(number: int, make: Callable[[Path], tuple[str, ...]]) -> tuple[int | None, str, Path]:
        root = model_root / f"exit-{number}"
        root.mkdir()
        # An empty name of a config file: a flag of which the server sees nothing, and EmbeddedServer that it is there.
        with start("--model_config_file=", *make(root), wait=False) as server:
            try:
                status = server.wait_until_ended(60)
            except subprocess.TimeoutExpired:
                status = None
            return status, server.log(), root

    with ThreadPoolExecutor(3) as pool:
        running = {case: pool.submit(run, number, make) for number, (case, (make, _)) in enumerate(EXITS.items())}
        return {case: future.result() for case, future in running.items()}


@pytest.mark.parametrize("case", EXITS)
def test_exits_with_255(ended, case):
    status, log, root = ended[case]
    assert status == 255, log[-2000:]
    assert EXITS[case][1].replace("ROOT", str(root)) in log


def test_waits_for_ever_and_opens_the_port_only_when_the_model_is_available(start, models, place):
    """First without the base path, then with an empty one, then with a version in it."""
    with start("--model_name=m", f"--model_base_path={place}/m", *QUICK, "--no_such_flag=1", wait=False) as server:
        time.sleep(1.5)
        assert not server.answers()
        (place / "m").mkdir()
        time.sleep(1.5)
        assert server.process.poll() is None
        assert not server.answers()
        shutil.copytree(models / "scale1", place / "staged")
        (place / "staged").rename(place / "m" / "1")
        server.wait_until_answering(60)
        wire = Wire(server.target)
        assert wire.states("m") == {1: "AVAILABLE"}
        assert wire.answer("m") == 1.0
        # What is no flag is told, and the server starts.
        assert "no_such_flag" in server.log()
        wire.close()


def test_the_port_opens_when_every_load_that_began_has_ended(start, models, model_root, place):
    """The first version to settle lets the start go on, which then waits for the loads that began meanwhile."""
    root = Path(tempfile.mkdtemp(dir=model_root))
    good(root)
    slow(root, 2)
    with start(*all_of_m(root)) as server:
        wire = Wire(server.target)
        assert wire.states("m") == {2: "AVAILABLE", 1: "AVAILABLE"}
        wire.close()


def test_a_start_on_a_file_that_names_nothing(start, models, place):
    """The first reload is the first config then, and stays it until one works; labels are unknown in another way."""
    shutil.copytree(models / "scale1", place / "m" / "1")
    (place / "x" / "1").mkdir(parents=True)
    (place / "config").write_text("# no list\n")
    with start(f"--model_config_file={place}/config", *QUICK) as server:
        wire = Wire(server.target)
        assert wire.predict_error("m", label="stable") == ("UNAVAILABLE", "Model labels does not init yet.stable")
        assert wire.predict_error("m") == ("NOT_FOUND", "Servable not found for request: Latest(m)")
        for _ in range(2):  # the same config again is not OK here: the row of the first time answers at once
            code, text = wire.reload_error(model("x", place / "x"))
            assert (code, text.partition(" due")[0]) == (
                "UNKNOWN",
                "1 servable(s) did not become available: {{{name: x version: 1}",
            )
        wire.reload(model("m", place / "m"))
        assert wire.answer("m") == 1.0
        assert wire.predict_error("m", label="stable")[0] == "INVALID_ARGUMENT"
        wire.close()


def test_a_new_model_without_a_platform_is_held_against_every_later_config(start, models, place):
    """A config becomes current before its platforms are looked at, and the current one is looked at first."""
    shutil.copytree(models / "scale1", place / "m" / "1")
    with start(*QUICK) as server:
        wire = Wire(server.target)
        wire.reload(model("m", place / "m"))
        refused = wire.reload_error(model("m", place / "m"), model("n", place / "m", model_platform=""))
        assert refused[0] == "INVALID_ARGUMENT"
        assert wire.reload_error(model("m", place / "m")) == refused
        assert wire.reload_error() == refused
        assert wire.answer("m") == 1.0
        wire.close()


def test_polling_applies_the_config_file_again_and_again(start, models, place):
    """A malformed, a missing or an empty file and a bad label change nothing; the file overrides a reload (20.5)."""
    shutil.copytree(models / "scale1", place / "m" / "1")
    shutil.copytree(models / "scale2", place / "m" / "2")
    shutil.copytree(models / "scale3", place / "n" / "3")
    config = place / "models.config"
    flag = write_config(config, entry("m", place / "m", 1, 2))
    with start(flag, "--model_config_file_poll_wait_seconds=1", "--num_load_threads=2", *QUICK) as server:
        wire = Wire(server.target)
        for version in (1, 2):
            wait_state(wire, "m", version, "AVAILABLE")
        # No label was excused at start-up; now that both versions are available, the file may name them.
        write_config(config, entry("m", place / "m", 1, 2, stable=1))
        wait_for_answer(wire, 1.0)
        for damage in ("model_config_list { config {", ""):
            config.write_text(damage)
            time.sleep(1.3)
            assert wire.answer("m", label="stable") == 1.0
        config.unlink()
        time.sleep(1.3)
        assert wire.answer("m", label="stable") == 1.0
        write_config(config, entry("m", place / "m", 1, 2, stable=9), entry("n", place / "n"))
        time.sleep(1.3)
        assert wire.answer("m", label="stable") == 1.0
        assert wire.rows("n") == []
        write_config(config, entry("m", place / "m", 1, 2, stable=2), entry("n", place / "n"))
        wait_for_answer(wire, 2.0)
        wait_state(wire, "n", 3, "AVAILABLE")
        # The label and n are gone with the reload, and back with the next period.
        wire.reload(model("m", place / "m", 1, 2))
        wait_for_answer(wire, 2.0)
        wait_state(wire, "n", 3, "AVAILABLE")
        wire.close()


def wait_for_answer(wire: Wire, expected: float, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = wire.answer("m", label="stable")
        except Exception as error:  # the label is not there, or its version is not back
            found = error
        if found == expected:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
