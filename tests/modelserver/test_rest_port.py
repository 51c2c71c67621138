"""The REST port by its flags, and the metrics page, without models and without TensorFlow."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from embedded_server import free_port
from tfs_deploy.clock import SystemClock
from tfs_deploy.modelserver import metrics, server, text_config
from tfs_deploy.modelserver.flags import parse
from tfs_deploy.modelserver.inference.predict import PLAIN
from tfs_deploy.modelserver.lifecycle.core import CoreOptions, ServerCore
from tfs_deploy.modelserver.rest.server import RestServer
from tfs_deploy.modelserver.status import Code, StatusError, invalid_argument


@pytest.fixture
def opened() -> Iterator[Callable[..., RestServer | None]]:
    """Open a port by flags; it is closed afterwards."""
    ports: list[RestServer] = []

    def open_with(*flags: str) -> RestServer | None:
        core = ServerCore(CoreOptions(), lambda id_, path: pytest.fail("nothing is loaded"), SystemClock())
        port = server.open_rest_port(core, parse(flags), PLAIN)
        ports.extend([port] if port is not None else [])
        return port

    yield open_with
    for port in ports:
        port.stop(1.0)


@pytest.fixture
def counting(monkeypatch) -> None:
    """Metrics are on, for this test."""
    monkeypatch.setattr(metrics._state, "on", True)


def fetch(port: int, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_no_port_without_the_flag(opened):
    assert opened() is None


def test_the_grpc_port_is_not_taken(opened, caplog):
    assert opened("--port=8500", "--rest_api_port=8500") is None
    assert "Skipped exporting HTTP/REST API." in caplog.text


def test_a_port_that_is_taken_is_told_and_left(opened, caplog):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        assert opened(f"--rest_api_port={taken.getsockname()[1]}") is None
    assert "Failed to start HTTP Server at localhost:" in caplog.text


def test_cors_headers_only_with_the_flag(opened):
    port, with_cors = free_port(), free_port()
    opened(f"--rest_api_port={port}")
    opened(f"--rest_api_port={with_cors}", "--rest_api_enable_cors_support")
    code, body, headers = fetch(with_cors, "/v1/models/m")
    assert (code, body) == (404, b'{\n    "error": "Could not find any versions of model m"\n}')
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == "POST, GET"
    assert "Access-Control-Allow-Origin" not in fetch(port, "/v1/models/m")[2]


def test_a_stopped_port_is_closed(opened):
    port = free_port()
    port_opened = opened(f"--rest_api_port={port}")
    assert fetch(port, "/")[0] == 404
    port_opened.stop(5.0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_without_tornado_nothing_starts(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    server.check_rest_port(parse([]))
    with pytest.raises(StatusError, match=r"pip install .*tornado"):
        server.check_rest_port(parse(["--rest_api_port=1"]))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("\n", None),
        ("prometheus_config { path: '/x' }", None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { enable: true path: '/x' }", "/x"),
    ],
)
def test_monitoring_config(tmp_path, text, path):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert text_config.metrics_page_path(str(file)) == path


def test_monitoring_config_that_cannot_be_used(tmp_path):
    assert text_config.metrics_page_path("") is None
    file = tmp_path / "monitoring.config"
    with pytest.raises(StatusError) as raised:
        text_config.metrics_page_path(str(file))
    assert raised.value.code is Code.NOT_FOUND
    file.write_text("")
    with pytest.raises(StatusError) as raised:
        text_config.metrics_page_path(str(file))
    assert str(raised.value) == f"INVALID_ARGUMENT: {file}; Invalid argument"
    file.write_text("prometheus { }")
    with pytest.raises(StatusError) as raised:
        text_config.metrics_page_path(str(file))
    assert str(raised.value) == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"


def test_metrics_page_at_a_path_of_its_own(opened, tmp_path, counting):
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true path: '/numbers' }")
    port = free_port()
    opened(f"--rest_api_port={port}", f"--monitoring_config_file={file}")
    fetch(port, "/v1/models/unheard%22of")
    code, page, _ = fetch(port, "/numbers")
    assert code == 200
    assert b':tensorflow:serving:request_count{model_name="unheard\\"of",status="NOT_FOUND"} 1\n' in page
    assert fetch(port, "/monitoring/prometheus/metrics")[0] == 404


def test_nothing_is_kept_while_metrics_are_off(monkeypatch):
    monkeypatch.setattr(metrics._state, "on", False)
    with metrics.measured_request("off", "Predict", "GRPC"):
        metrics.record_run("off", "Predict", time.monotonic())
    assert '"off"' not in metrics.page()


def test_loads_and_warm_ups_are_counted(counting):
    path = "/models/counted/1"
    with metrics.measured_load(path):
        pass
    with pytest.raises(StatusError), metrics.measured_load(path):
        raise invalid_argument("broken")
    metrics.record_warmup(path, time.monotonic() - 0.5)
    page = metrics.page()
    assert f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="success"}} 1\n' in page
    assert f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="fail"}} 1\n' in page
    warmup = f':tensorflow:serving:model_warmup_latency_bucket{{model_path="{path}",status="OK",le='
    assert f'{warmup}"10"}} 0\n' in page
    assert f'{warmup}"32.4"}} 0\n' in page
    assert f'{warmup}"+Inf"}} 1\n' in page
    assert page.endswith("\n")
