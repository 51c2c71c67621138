"""HandleReloadConfigRequest and labels: contract 20.4."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from modelserver.wire import model, reload_request, wait_state
from tfs_deploy.serving import rpc
from tfs_deploy.serving.codec import messages

pytestmark = pytest.mark.tensorflow


def test_moving_a_label_in_use_to_an_unavailable_version_changes_nothing(wire, name, install, place):
    base = place / "base"
    install("scale1", 1)
    install("scale2", 2)
    wire.reload(model(name, base, 1, labels={"stable": 1}))
    assert wire.reload_error(model(name, base, 1, 2, labels={"stable": 2})) == (
        "FAILED_PRECONDITION",
        f"Request to assign label to version 2 of model {name}, which is not currently available for inference",
    )
    time.sleep(1.5)
    assert wire.states(name) == {1: "AVAILABLE"}
    assert wire.answer(name, label="stable") == 1.0
    wire.reload(model(name, base, 1, 2, labels={"stable": 1, "canary": 2}))  # a new label may wait for its version
    wait_state(wire, name, 2, "AVAILABLE")
    assert wire.answer(name, label="canary") == 2.0


def test_a_broken_new_model_is_unknown_stays_configured_and_the_same_config_is_ok_then(wire, name, install, place):
    install("scale1", 1)
    (place / "broken" / "1").mkdir(parents=True)
    models = model(name, place / "base"), model(f"{name}_x", place / "broken")
    code, text = wire.reload_error(*models)
    assert (code, text) == (
        "UNKNOWN",
        f"1 model(s) did not become available: {{{{{{name: {name}_x version: 1}} due to error: NOT_FOUND: Specified "
        "file path does not appear to contain a SavedModel bundle (should have a file called `saved_model.pb`)\n"
        f"Specified file path: {place}/broken/1}}, }}",
    )
    assert wire.states(f"{name}_x") == {1: "END"}
    assert wire.answer(name) == 1.0
    wire.reload(*models)


def test_an_empty_directory_blocks_reloads_but_nothing_else(wire, name, install, place):
    install("scale1", 1)
    empty = place / "empty"
    empty.mkdir()
    wire.reload(model(name, place / "base"))
    both = model(name, place / "base"), model(f"{name}_e", empty)
    # The caller's deadline does not stop it, and later reloads queue behind it.
    assert wire.reload_error(*both, timeout=0.5)[0] == "DEADLINE_EXCEEDED"
    queued = [wire.start(rpc.HANDLE_RELOAD_CONFIG, reload_request(*both), timeout=120) for _ in range(12)]
    time.sleep(0.3)
    assert not any(call.done() for call in queued)
    assert wire.answer(name) == 1.0
    assert wire.states(name) == {1: "AVAILABLE"}
    install("scale2", 1, empty)
    for call in queued:
        call.result()
    assert wire.answer(f"{name}_e") == 2.0


def ambiguous(name, base):
    return model(name, base, model_type=1)


REFUSED = (
    (lambda n, b: [model(n, b), model(n, b)], "Illegal to list model {n} multiple times in config list"),
    (
        lambda n, b: [model(n, "m5")],
        "Expected model {n} to have an absolute path or URI; got base_path()=m5",
    ),
    (
        lambda n, b: [model(n, b, model_platform="")],
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
        "ModelServerConfig::model_platform, model name is {n}",
    ),
    (
        lambda n, b: [ambiguous(n, b)],
        "Illegal setting both ModelServerConfig::model_type (deprecated) and "
        "ModelServerConfig::model_platform, model name is {n}",
    ),
    (
        lambda n, b: [model(n, b, model_platform="zz")],
        "Illegal to change a model's platform. For model {n} platform was tensorflow and new platform requested is zz",
    ),
    (
        lambda n, b: [model(n, b), model(n + "p", b, model_platform="zz")],
        "Model {n}p requests unsupported platform zz",
    ),
)


def test_refused_configs(wire, name, install, place):
    install("scale1", 1)
    base = place / "base"
    for make, text in REFUSED:
        wire.reload(model(name, base))
        assert wire.reload_error(*make(name, base)) == ("INVALID_ARGUMENT", text.format(n=name))
        assert wire.answer(name) == 1.0


def test_no_list(wire):
    assert wire.error(rpc.HANDLE_RELOAD_CONFIG, messages.ReloadConfigRequest()) == (
        "INVALID_ARGUMENT",
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    )


def test_model_type_alone_is_fine(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", model_platform="", model_type=1))
    assert wire.answer(name) == 1.0


def test_logging_config_is_refused_after_the_model_is_loaded(wire, name, install, place):
    install("scale1", 1)
    config = model(name, place / "base")
    config.logging_config.SetInParent()
    assert wire.reload_error(config) == ("INVALID_ARGUMENT", "No request-logger-creator provided.")
    assert wire.answer(name) == 1.0


def test_a_new_base_path_keeps_the_loaded_data_of_the_same_number(wire, name, install, place):
    install("scale1", 1)
    install("scale2", 1, place / "new")
    wire.reload(model(name, place / "base"))
    wire.reload(model(name, place / "new"))
    time.sleep(1.5)
    assert wire.answer(name) == 1.0
    install("scale3", 2, place / "new")
    wait_state(wire, name, 2, "AVAILABLE")
    assert wire.answer(name) == 3.0


def test_removed_and_added_again_after_its_end(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base"))
    wire.reload()
    wait_state(wire, name, 1, "END")
    assert wire.predict_error(name)[0] == "NOT_FOUND"
    wire.reload(model(name, place / "base"))
    assert wire.answer(name) == 1.0


def test_concurrent_reloads_all_answer(wire, name, install, place):
    install("scale1", 1)
    failures = []

    def apply():
        try:
            wire.reload(model(name, place / "base"))
        except grpc.RpcError as error:
            failures.append(error)

    threads = [threading.Thread(target=apply) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert wire.answer(name) == 1.0


def test_omitted_labels_and_models_are_gone(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, labels={"a": 1, "with space/ünd 9": 1}))
    assert wire.answer(name, label="with space/ünd 9") == 1.0
    wire.reload(model(name, place / "base", 1, labels={"a": 1}))
    assert wire.answer(name, label="a") == 1.0
    assert wire.predict_error(name, label="with space/ünd 9")[0] == "INVALID_ARGUMENT"
    wire.reload()
    assert wait_state(wire, name, 1, "END") == (0, "")
    assert wire.predict_error(name, label="a") == ("INVALID_ARGUMENT", "Unrecognized servable version label: a")


def test_an_empty_label_is_a_label(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1, labels={"": 1}))
    assert wire.answer(name, label="") == 1.0


def test_a_model_without_a_name_loads(wire, install, place):
    install("scale1", 1)
    wire.reload(model("", place / "base"))
    assert [row[:2] for row in wire.rows("")] == [(1, "AVAILABLE")]


def test_an_existing_model_is_not_waited_for(wire, name, install, place):
    install("scale1", 1)
    wire.reload(model(name, place / "base", 1))
    wire.reload(model(name, place / "base", 1, 2))  # a call that waited for 2 would never answer
    assert wire.states(name) == {1: "AVAILABLE"}
    (place / "base" / "2").mkdir()
    wait_state(wire, name, 2, "END")


def test_counts_that_the_reload_raised_come_back_with_it(wire, name, install, place):
    install("scale1", 1)
    request = reload_request(model(name, place / "base"))
    request.metric_names.extend(["/no/such/metric", "/tensorflow/serving/request_latency", "/no/such/metric"])
    reply = wire.call(rpc.HANDLE_RELOAD_CONFIG, request)
    assert all(metric.WhichOneof("value_increase") == "int64_value_increase" for metric in reply.metric)
    assert sorted((metric.name, metric.int64_value_increase) for metric in reply.metric) == [
        ("/no/such/metric", 0),
        ("/tensorflow/serving/request_latency", 0),  # a histogram counts as 0
    ]
    assert not wire.call(rpc.HANDLE_RELOAD_CONFIG, reload_request(model(name, place / "base"))).metric
