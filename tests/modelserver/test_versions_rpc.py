"""Versions come and go on a running server: contract 20.6, 20.7, 20.10 and 20.11."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest

from modelserver.conftest import wait_state
from modelserver.wire import Wire, eventually, model, predict_request
from tfs_deploy.savedmodel.requests import WARMUP_PATH, WarmupRequest, write_warmup
from tfs_deploy.savedmodel.tfrecord import encode
from tfs_deploy.serving import messages, rpc

pytestmark = pytest.mark.tensorflow

LOADERR = (
    "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
    "`saved_model.pb`)\nSpecified file path: DIRECTORY"
)


def test_hot_load_latest_without_a_gap(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base"))
    assert wire.answer(name) == 1.0
    answers, done = [], threading.Event()

    def ask():
        while not done.is_set():
            answers.append(wire.answer(name))

    asking = threading.Thread(target=ask)
    asking.start()
    install("scale2", 2)
    assert wait_state(wire, name, 1, "END") == (0, "")
    done.set()
    asking.join()
    assert wire.rows(name) == [(2, "AVAILABLE", 0, ""), (1, "END", 0, "")]
    assert answers[0] == 1.0
    assert answers[-1] == 2.0
    assert answers == sorted(answers)
    shutil.rmtree(tmp_path / "base" / "2")
    wait_state(wire, name, 2, "END")
    assert wire.answer(name) == 1.0
    wire.reload()
    wait_state(wire, name, 1, "END")
    assert wire.states(name) == {2: "END", 1: "END"}


def test_a_directory_that_comes_later(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base", 1, 2))
    assert wire.states(name) == {1: "AVAILABLE"}
    install("scale2", "002")
    wait_state(wire, name, 2, "AVAILABLE")
    assert wire.answer(name, version=1) == 1.0
    assert wire.answer(name) == 2.0


def test_missing_base_path_freezes_every_model(wire, name, install, tmp_path):
    install("scale1", 1)
    other = install("scale2", 1, tmp_path / "other").parent
    wire.reload(model(name, tmp_path / "base"), model(f"{name}_b", other))
    other.rename(tmp_path / "away")
    install("scale2", 2)
    time.sleep(2.5)
    assert wire.states(name) == {1: "AVAILABLE"}
    assert wire.answer(f"{name}_b") == 2.0
    (tmp_path / "away").rename(other)
    wait_state(wire, name, 2, "AVAILABLE")


def test_specific_with_nothing_that_exists_unloads_everything(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base", 1))
    wire.reload(model(name, tmp_path / "base", 77))
    wait_state(wire, name, 1, "END")
    assert wire.predict_error(name) == ("NOT_FOUND", f"Servable not found for request: Latest({name})")


def drop_everything(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def garble(directory):
    (directory / "saved_model.pb").write_bytes(b"not a pb!")


def empty_pb(directory):
    (directory / "saved_model.pb").write_bytes(b"")


def only_export_meta(directory):
    drop_everything(directory)
    (directory / "export.meta").write_bytes(b"x")


def drop_tags(directory):
    saved = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].meta_info_def.ClearField("tags")
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())


def drop_shard(directory):
    (directory / "variables" / "variables.data-00000-of-00001").unlink()


def junk_index(directory):
    (directory / "variables" / "variables.index").write_bytes(b"junk")


def unknown_op(directory):
    saved = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].graph_def.node.add(name="strange", op="NoSuchOpAnywhere")
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())


def bad_warmup(directory):
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("serving_default", {"q": np.float32([1])})])


def foreign_warmup(directory):
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"this is certainly no TFRecord file")


def unparsable_warmup(directory):
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode([b"\xff\xff\xff"])))


def session_run_warmup(directory):
    log = messages.PredictionLog()
    log.session_run_log.SetInParent()
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode([log.SerializeToString()])))


def too_much_warmup(directory):
    request = WarmupRequest("serving_default", {"x": np.float32([1])})
    write_warmup(directory / WARMUP_PATH, "m", [request] * 1000)
    with (directory / WARMUP_PATH).open("ab") as file:
        file.writelines(encode([messages.PredictionLog().SerializeToString()]))


def no_variables_but_warmup(directory):
    shutil.rmtree(directory / "variables")
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("serving_default", {"x": np.float32([1])})])


BROKEN = (
    (drop_everything, 5, LOADERR),
    (garble, 11, "Read less bytes than requested"),
    (empty_pb, 5, "Could not find meta graph def matching supplied tags: { serve }. "),
    (drop_tags, 5, "Could not find meta graph def matching supplied tags: { serve }. "),
    (only_export_meta, 12, "Session Bundle is deprecated and removed."),
    (drop_shard, 5, "; No such file or directory"),
    (junk_index, 15, "file is too short to be an sstable"),
    (unknown_op, 5, "Op type not registered 'NoSuchOpAnywhere'"),
    (bad_warmup, 3, "Signature input alias: x(feed name: serving_default_x:0) not found"),
    (foreign_warmup, 15, "corrupted record at 0 (Is this even a TFRecord file?). Please verify your warmup data"),
    (unparsable_warmup, 3, "Failed to parse warmup record: "),
    (session_run_warmup, 12, "Unsupported log_type for warmup: 5"),
    (too_much_warmup, 3, "Number of warmup records exceeds the maximum (1000) at "),
    (no_variables_but_warmup, 9, "Could not find variable w"),
)


@pytest.fixture(scope="module")
def broken(server, models, tmp_path_factory):
    """Every damage at once, as version 2 of a model whose version 1 is good: what came of each, by name."""
    wire, root = Wire(server.target), tmp_path_factory.mktemp("broken")
    configs = []
    for damage, _, _ in BROKEN:
        base = root / damage.__name__
        base.mkdir()
        (base / "1").symlink_to(models / "scale1")
        shutil.copytree(models / "scale2", base / "staged")
        damage(base / "staged")
        configs.append(model(damage.__name__, base, 1, 2))
    wire.reload(*configs)
    for config in configs:
        (root / config.name / "staged").rename(root / config.name / "2")
    found = {}
    for config in configs:
        code, text = wait_state(wire, config.name, 2, "END")
        refused = wire.predict_error(config.name, version=2)
        found[config.name] = (code, text, refused, wire.answer(config.name), root / config.name / "2")
    wire.reload()
    wire.close()
    return found


@pytest.mark.parametrize(("damage", "code", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_version_ends_and_the_good_one_serves_on(broken, damage, code, text):
    found_code, found_text, refused, answer, directory = broken[damage.__name__]
    assert found_code == code, found_text
    assert text.replace("DIRECTORY", str(directory)) in found_text
    assert refused == ("NOT_FOUND", f"Servable not found for request: Specific({damage.__name__}, 2)")
    assert answer == 1.0


def test_a_file_as_version(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base", 1, 9))
    path = tmp_path / "base" / "9"
    path.write_text("")
    assert wait_state(wire, name, 9, "END") == (
        9,
        f"Error while attempting to reserve resources to load servable {{name: {name} version: 9}}: "
        f"{path}; Not a directory",
    )


def test_missing_variables_become_available_displace_the_good_and_fail_each_request(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base"))
    staged = install("scale2", "staged")
    shutil.rmtree(staged / "variables")
    staged.rename(tmp_path / "base" / "2")
    wait_state(wire, name, 2, "AVAILABLE")
    wait_state(wire, name, 1, "END")
    code, text = wire.predict_error(name)
    assert code == "FAILED_PRECONDITION"
    assert "Could not find variable w" in text


def test_unknown_op_in_a_function_fails_only_its_signature(wire, name, install, tmp_path):
    directory = install("several", 1)
    saved = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    (inner,) = [f for f in functions if f.signature.name.startswith("__inference_add")]
    (node,) = [n for n in inner.node_def if n.op == "AddV2"]
    node.op = "NoSuchOpAnywhere"
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())
    wire.reload(model(name, directory.parent))
    inputs = {"a": np.float32([1]), "b": np.int32([1])}
    code, text = wire.predict_error(name, signature="add", inputs=inputs)
    assert (code, "Op type not registered" in text) == ("NOT_FOUND", True)
    assert wire.predict(name, signature="spin", inputs={"n": np.int32(1)})


def test_a_failed_number_is_tried_again_only_after_it_was_dropped(wire, name, install, tmp_path):
    install("scale1", 1)
    (tmp_path / "base" / "5").mkdir()
    wire.reload(model(name, tmp_path / "base", 1))
    wire.reload(model(name, tmp_path / "base", 1, 5))
    wait_state(wire, name, 5, "END")
    (tmp_path / "base" / "5").rmdir()
    install("scale2", 5)
    time.sleep(2.2)
    assert wire.states(name) == {5: "END", 1: "AVAILABLE"}
    wire.reload(model(name, tmp_path / "base", 1))
    time.sleep(1.5)
    wire.reload(model(name, tmp_path / "base", 1, 5))
    wait_state(wire, name, 5, "AVAILABLE")


def test_wedge_without_overlap(wire, name, install, tmp_path):
    install("scale1", 1)
    (tmp_path / "base" / "2").mkdir()
    install("scale3", 3)
    wire.reload(model(name, tmp_path / "base", 1))
    wire.reload(model(name, tmp_path / "base", 2))
    wait_state(wire, name, 2, "END")
    wire.reload(model(name, tmp_path / "base", 1, 3))
    time.sleep(2.5)
    assert wire.states(name) == {2: "END", 1: "AVAILABLE"}
    assert wire.answer(name) == 1.0
    wire.reload(model(name, tmp_path / "base", 3))
    wait_state(wire, name, 3, "AVAILABLE")
    wait_state(wire, name, 1, "END")


def test_a_request_in_flight_holds_every_swap(wire, name, install, tmp_path):
    install("scale1", 1)
    install("several", 1, tmp_path / "other")
    wire.reload(model(name, tmp_path / "base"), model(f"{name}_slow", tmp_path / "other"))
    assert wire.predict(f"{name}_slow", signature="spin", inputs={"n": np.int32(1)})
    endless = predict_request(f"{name}_slow", signature="spin", inputs={"n": np.int32(2_000_000_000)})
    running = wire.start(rpc.PREDICT, endless, timeout=3.0)
    install("scale2", 2)
    # The new version answers already, while its row still says LOADING and the old one's AVAILABLE.
    eventually(lambda: wire.answer(name) == 2.0, 10)
    if not running.done():
        assert wire.states(name) == {2: "LOADING", 1: "AVAILABLE"}
    assert running.exception() is not None
    wait_state(wire, name, 1, "END")


def test_a_load_does_not_stall_other_models(wire, name, install, tmp_path):
    install("scale1", 1)
    wire.reload(model(name, tmp_path / "base"))
    slowest = 0.0
    done = threading.Event()

    def load():
        for version in range(1, 4):
            install("several", version, tmp_path / "other")
        wire.reload(model(name, tmp_path / "base"), model(f"{name}_b", tmp_path / "other", 1, 2, 3))
        done.set()

    loading = threading.Thread(target=load)
    loading.start()
    while not done.is_set():
        begun = time.monotonic()
        wire.answer(name)
        slowest = max(slowest, time.monotonic() - begun)
    loading.join()
    assert slowest < 1.0
