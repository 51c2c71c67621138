"""Loads that fail, and loads that ought to: contract 20.7 and 20.11."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from contract.model_server.place import LOADERR
from modelserver.wire import Wire, model, predict_request, wait_state
from tfs_deploy.savedmodel.requests import WARMUP_PATH, WarmupRequest, write_warmup
from tfs_deploy.savedmodel.tfrecord import encode
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow


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


def short_shard(directory):
    shard = directory / "variables" / "variables.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:1])


def junk_text(directory):
    (directory / "saved_model.pb").unlink()
    (directory / "saved_model.pbtxt").write_text("no { pbtxt")


def dangling_link(directory):
    shutil.rmtree(directory)
    directory.symlink_to(directory.parent / "nowhere")


def change_meta_graph(directory, change):
    saved = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    change(saved.meta_graphs[0])
    (directory / "saved_model.pb").write_bytes(saved.SerializeToString())


def unknown_op(directory):
    change_meta_graph(directory, lambda meta: meta.graph_def.node.add(name="strange", op="NoSuchOpAnywhere"))


def unknown_input(directory):
    def change(meta):
        node = meta.graph_def.node.add(name="strange", op="Identity", input=["nobody"])
        node.attr["T"].type = 1
        meta.graph_def.versions.producer = 2288  # TensorFlow 2.20's

    change_meta_graph(directory, change)


def unknown_input_of_a_newer_exporter(directory):
    unknown_input(directory)
    change_meta_graph(directory, lambda meta: setattr(meta.graph_def.versions, "producer", 2310))


def unknown_restore_op(directory):
    change_meta_graph(directory, lambda meta: setattr(meta.saver_def, "restore_op_name", "nobody"))


def directory_as_pb(directory):
    (directory / "saved_model.pb").unlink()
    (directory / "saved_model.pb").mkdir()


def bad_warmup(directory):
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("serving_default", {"q": np.float32([1])})])


def foreign_warmup(directory):
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"this is certainly no TFRecord file")


def unparsable_warmup(directory):
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode([b"\xff\xff\xff"])))


def write_records(directory, *records, cut=None):
    (directory / WARMUP_PATH).parent.mkdir(exist_ok=True)
    (directory / WARMUP_PATH).write_bytes(b"".join(encode(records))[:cut])


def session_run_warmup(directory):
    log = messages.PredictionLog()
    log.session_run_log.SetInParent()
    write_records(directory, log.SerializeToString())


def truncated_warmup(directory):
    write_records(directory, warmup_log().SerializeToString(), b"x" * 100, cut=-40)


def wrong_dtype_warmup(directory):
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("serving_default", {"x": np.int32([1])})])


def unknown_signature_warmup(directory):
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("zz", {"x": np.float32([1])})])


def warmup_log():
    log = messages.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("anything"))
    return log


def too_much_warmup(directory):
    request = WarmupRequest("serving_default", {"x": np.float32([1])})
    write_warmup(directory / WARMUP_PATH, "m", [request] * 1000)
    with (directory / WARMUP_PATH).open("ab") as file:
        file.writelines(encode([messages.PredictionLog().SerializeToString()]))


def no_variables_but_warmup(directory):
    shutil.rmtree(directory / "variables")
    write_warmup(directory / WARMUP_PATH, "m", [WarmupRequest("serving_default", {"x": np.float32([1])})])


BROKEN = (
    (drop_everything, 5, f"{LOADERR}DIRECTORY"),
    (garble, 11, "Read less bytes than requested"),
    (empty_pb, 5, "Could not find meta graph def matching supplied tags: { serve }. "),
    (drop_tags, 5, "Could not find meta graph def matching supplied tags: { serve }. "),
    (only_export_meta, 12, "Session Bundle is deprecated and removed."),
    (directory_as_pb, 5, "Could not find meta graph def matching supplied tags: { serve }. "),
    (dangling_link, 5, "Error while attempting to reserve resources to load servable {name: dangling_link version: 2}: "
     "DIRECTORY not found"),
    (junk_text, 11, ""),
    (drop_shard, 5, "; No such file or directory"),
    (short_shard, 11, ""),
    (junk_index, 15, "file is too short to be an sstable"),
    (unknown_op, 5, "Op type not registered 'NoSuchOpAnywhere'"),
    (unknown_input, 3, "Node 'strange': Unknown input node 'nobody'"),
    (unknown_input_of_a_newer_exporter, 3,
     "Converting GraphDef to Graph has failed with an error: 'Node 'strange': Unknown input node 'nobody'' The binary "
     "trying to import the GraphDef was built when GraphDef version was 2288. The GraphDef was produced by a binary "
     "built when GraphDef version was 2310. The difference between these versions is larger than TensorFlow's forward "
     "compatibility guarantee, and might be the root cause for failing to import the GraphDef."),
    (unknown_restore_op, 5, "PruneForTargets: Some target nodes not found: nobody "),
    (bad_warmup, 3, "Signature input alias: x(feed name: serving_default_x:0) not found"),
    (foreign_warmup, 15, "corrupted record at 0 (Is this even a TFRecord file?). Please verify your warmup data"),
    (unparsable_warmup, 3, "Failed to parse warmup record: "),
    (wrong_dtype_warmup, 3, "Expects arg[0] to be float but int32 is provided"),
    (unknown_signature_warmup, 9, 'Serving signature key "zz" not found.'),
    (truncated_warmup, 15, "truncated record at "),
    (session_run_warmup, 12, "Unsupported log_type for warmup: 5"),
    (too_much_warmup, 3, "Number of warmup records exceeds the maximum (1000) at "),
    (no_variables_but_warmup, 9, "Could not find variable w"),
)  # fmt: skip


@pytest.fixture(scope="module")
def broken(server, models, model_root):
    """Every damage at once, as version 2 of a model whose version 1 is good: what came of each, by name."""
    wire, root = Wire(server.target), model_root / "broken"
    configs = []
    for damage, _, _ in BROKEN:
        base = root / damage.__name__
        base.mkdir(parents=True)
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


def test_a_signature_with_an_output_that_is_none_loads_and_fails_alone(wire, name, install, place):
    directory = install("scale1", 1)

    def change(meta):
        signature = meta.signature_def["serving_default"]
        meta.signature_def["other"].CopyFrom(signature)
        meta.signature_def["other"].outputs["y"].name = "StatefulPartitionedCall:7"

    change_meta_graph(directory, change)
    wire.reload(model(name, place / "base"))
    assert wire.answer(name) == 1.0
    code, text = wire.predict_error(name, signature="other")
    assert code == "OUT_OF_RANGE"
    assert text.endswith("num of outputs: 2) does not have output 7")


def test_a_message_that_is_no_utf8_goes_out_as_it_is(wire, name, install, place):
    directory = install("scale1", 1)
    unparsable_warmup(directory)
    wire.reload_error(model(name, place / "base"))
    request = messages.GetModelStatusRequest(model_spec={"name": name}).SerializeToString()
    data = wire.channel.unary_unary(rpc.GET_MODEL_STATUS.path)(request, timeout=60)
    assert b"Failed to parse warmup record: \xff\xff\xff from %b" % str(directory / WARMUP_PATH).encode() in data


def test_a_missing_asset(wire, name, install, place):
    directory = install("several", 1)
    (directory / "assets" / "vocabulary.txt").unlink()
    wire.reload_error(model(name, place / "base"))
    assert wire.rows(name)[0][:3] == (1, "END", 5)


def nothing(directory):
    pass


def no_fingerprint(directory):
    (directory / "fingerprint.pb").unlink()


def empty_warmup(directory):
    write_records(directory)


def a_few_bytes_of_warmup(directory):
    write_records(directory)
    (directory / WARMUP_PATH).write_bytes(b"abc")


def records_without_type_or_spec(directory):
    log = warmup_log()
    log.predict_log.request.ClearField("model_spec")
    write_records(directory, messages.PredictionLog().SerializeToString(), log.SerializeToString())


def the_most_warmup(directory):
    write_records(directory, *[warmup_log().SerializeToString()] * 1000)


GOOD = (nothing, no_fingerprint, empty_warmup, a_few_bytes_of_warmup, records_without_type_or_spec, the_most_warmup)


@pytest.fixture(scope="module")
def intact(server, models, model_root):
    """Every form that loads although it looks odd, as models of one config."""
    wire, root, configs = Wire(server.target), model_root / "intact", []
    for change in GOOD:
        directory = Path(shutil.copytree(models / "scale1", root / change.__name__ / "1"))
        change(directory)
        configs.append(model(f"intact_{change.__name__}", directory.parent))
    wire.reload(*configs, timeout=60)
    yield wire
    wire.reload()
    wire.close()


@pytest.mark.parametrize("change", GOOD, ids=lambda change: change.__name__)
def test_what_loads_all_the_same(intact, change):
    assert intact.rows(f"intact_{change.__name__}") == [(1, "AVAILABLE", 0, "")]
    assert intact.answer(f"intact_{change.__name__}") == 1.0


def test_a_file_as_version(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1, 9))
    path = place / "base" / "9"
    path.write_text("")
    assert wait_state(wire, name, 9, "END") == (
        9,
        f"Error while attempting to reserve resources to load servable {{name: {name} version: 9}}: "
        f"{path}; Not a directory",
    )


def test_missing_variables_become_available_displace_the_good_and_fail_each_request(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base"))
    staged = install("scale2", "staged")
    shutil.rmtree(staged / "variables")
    staged.rename(place / "base" / "2")
    wait_state(wire, name, 2, "AVAILABLE")
    wait_state(wire, name, 1, "END")
    code, text = wire.predict_error(name)
    assert code == "FAILED_PRECONDITION"
    assert "Could not find variable w" in text


def test_unknown_op_in_a_function_fails_only_its_signature(wire, name, install, place):
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


def test_a_failed_number_is_tried_again_only_after_it_was_dropped(wire, name, install, place):
    install("scale1", 1)
    (place / "base" / "5").mkdir()
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, 5))
    wait_state(wire, name, 5, "END")
    (place / "base" / "5").rmdir()
    install("scale2", 5)
    time.sleep(2.2)
    assert wire.states(name) == {5: "END", 1: "AVAILABLE"}
    wire.reload(model(name, place / "base", 1))
    time.sleep(1.5)
    wire.reload(model(name, place / "base", 1, 5))
    wait_state(wire, name, 5, "AVAILABLE")
