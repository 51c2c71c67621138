"""Options as they are given, and the command line, environment and files that they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfs_deploy.containers.command_line import command_line
from tfs_deploy.containers.options import Limits, ServerOptions, check_image, options_from
from tfs_deploy.errors import InvalidInput

ONE = {"model": {"name": "digits"}}


@pytest.mark.parametrize(
    "image",
    [
        "tensorflow/serving",
        "tensorflow/serving:2.20.0",
        "tensorflow/serving:2.20.0-gpu",
        "registry.example:5000/team/tf_serving:1",
        "serving@sha256:" + "a" * 64,
        "tensorflow/serving:2.20.0@sha256:" + "0" * 64,
    ],
)
def test_references_of_images(image: str) -> None:
    assert check_image(image) == image


@pytest.mark.parametrize("image", ["", "A/b", "a b", "a:", "a@sha256:12", "-a", "a//", "a" * 600, "a:b:c", "../a"])
def test_what_is_no_reference(image: str) -> None:
    with pytest.raises(InvalidInput, match="not a reference"):
        check_image(image)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"imag": "a"}, "unknown field `imag`"),
        ({"ports": {"grcp": 1}}, "unknown field `grcp`"),
        ({"ports": {"grpc": 70000}}, "65535"),
        ({"ports": {"grpc": 0}}, ">= 1"),
        ({"limits": {"memory": "lots"}}, "not a size"),
        ({"limits": {"memory": "1m"}}, "below 6 MiB"),
        ({"limits": {"cpus": -1}}, ">= 0"),
        ({"gpus": {}}, "exactly one"),
        ({"gpus": {"all": True, "count": 2}}, "exactly one"),
        ({"gpus": {"count": 0}}, ">= 1"),
        ({"model": {"name": "../x"}}, "not usable"),
        ({"model": {"name": "x", "base_path": "models"}}, "relative"),
        ({"model_root": {}}, "exactly one of them"),
        ({"model_root": {"directory": "/a", "volume": "b"}}, "exactly one of them"),
        ({"model_root": {"directory": "a"}}, "relative"),
        ({"restart": {"policy": "always", "retries": 3}}, "on-failure only"),
        ({"restart": {"policy": "sometimes"}}, "Invalid enum value"),
        ({"parallelism": {"session": 2, "intra_op": 2}}, "ignores"),
        ({"gpu_memory_fraction": 1.5}, "<= 1.0"),
        ({"name": "a b"}, "matching regex"),
        ({**ONE, "files": {"model_config": "/a"}}, "ignores the first"),
    ],
)
def test_options_that_do_not_fit(data: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        options_from(data)
    assert words in str(caught.value)


def test_rendered_templates_are_read() -> None:
    options = options_from({**ONE, "ports": {"grpc": "8500"}, "gpus": {"count": "2"}, "limits": {"cpus": "1.5"}})
    assert options.ports.grpc == 8500
    assert options.gpus is not None
    assert options.gpus.count == 2
    assert options.limits.cpus == 1.5
    assert options_from(options) is options


@pytest.mark.parametrize(
    ("memory", "size"), [("", 0), ("512m", 512 << 20), ("8g", 8 << 30), ("8G", 8 << 30), (7 << 20, 7 << 20)]
)
def test_sizes_of_memory(memory: str | int, size: int) -> None:
    assert Limits(memory=memory).memory_bytes() == size


def test_the_form_of_one_model() -> None:
    line = command_line(options_from({**ONE, "environment": {"A": "b"}}))
    assert line.arguments == ()
    assert line.environment == {"A": "b", "MODEL_NAME": "digits", "MODEL_BASE_PATH": "/models"}


def test_everything_at_once(tmp_path: Path) -> None:
    for name in ("models", "batching", "monitoring", "tls"):
        (tmp_path / name).write_text(name)
    options = options_from(
        {
            "files": {
                "model_config": str(tmp_path / "models"),
                "batching": str(tmp_path / "batching"),
                "monitoring": str(tmp_path / "monitoring"),
                "tls": str(tmp_path / "tls"),
                "session": "container:/etc/session.config",
            },
            "loading": {
                "retries": 1,
                "retry_interval_micros": 1000000,
                "load_threads": 2,
                "unload_threads": 1,
                "poll_seconds": 5,
                "labels_for_unavailable": True,
            },
            "parallelism": {"intra_op": 2, "inter_op": 1},
            "gpu_memory_fraction": 0.5,
            "arguments": ["--enable_grpc_healthcheck_service=true"],
        }
    )
    line = command_line(options, host_ports=(9000, 9001))
    assert line.arguments == (
        "--port=9000",
        "--rest_api_port=9001",
        "--enable_batching=true",
        "--model_config_file=/etc/tfs_deploy/model_config.config",
        "--batching_parameters_file=/etc/tfs_deploy/batching.config",
        "--monitoring_config_file=/etc/tfs_deploy/monitoring.config",
        "--ssl_config_file=/etc/tfs_deploy/tls.config",
        "--tensorflow_session_config_file=/etc/session.config",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000000",
        "--num_load_threads=2",
        "--num_unload_threads=1",
        "--file_system_poll_wait_seconds=5",
        "--tensorflow_intra_op_parallelism=2",
        "--tensorflow_inter_op_parallelism=1",
        "--per_process_gpu_memory_fraction=0.5",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_grpc_healthcheck_service=true",
    )
    assert line.files["/etc/tfs_deploy/tls.config"] == b"tls"
    assert len(line.files) == 4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"arguments": ["--enable_batchng"]}, "Did you mean --enable_batching?"),
        ({"arguments": ["--port=9000"]}, "Use ports.grpc."),
        ({"arguments": ["--model_name=x"]}, "Use model.name."),
        ({"arguments": ["--version"]}, "print its version"),
        ({"files": {"batching": "/nowhere/batching.config"}}, "cannot be read: No such file"),
        ({"loading": {"retry_interval_micros": 2**63}}, "64 bits"),
    ],
)
def test_a_command_line_that_would_not_do_what_it_says(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        command_line(options_from({**ONE, **more}))
    assert words in str(caught.value)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(InvalidInput, match="over 4 MiB"):
        command_line(ServerOptions(model=None, files=options_from({"files": {"session": str(path)}}).files))
