"""The command line: contract 1. No TensorFlow."""

from __future__ import annotations

import pytest

from tfs_deploy.modelserver.flags import FLAGS, MalformedFlag, Served, parse, usage


def test_all_48_flags_of_tf_serving_2_20_with_their_defaults():
    assert len({flag.name for flag in FLAGS}) == 48
    flags = parse([])
    assert flags.number("port") == 8500
    assert flags.number("max_num_load_retries") == 5
    assert flags.number("load_retry_interval_micros") == 60_000_000
    assert flags.switch("enable_model_warmup")
    assert flags.text("model_name") == "default"


def test_values():
    flags = parse(
        ["--port=1", "--port=2", "--model_name=a=b", "--enable_batching", "--enable_model_warmup=false",
         "--load_retry_interval_micros=-1", "--per_process_gpu_memory_fraction=0.5"]
    )  # fmt: skip
    assert flags.number("port") == 2
    assert flags.text("model_name") == "a=b"
    assert flags.switch("enable_batching")
    assert not flags.switch("enable_model_warmup")
    assert flags.number("load_retry_interval_micros") == -1
    assert flags.values["per_process_gpu_memory_fraction"] == 0.5
    assert not flags.unknown


@pytest.mark.parametrize(
    "argument",
    ["--port=abc", "--port=", "--port=3000000000", "--enable_batching=maybe", "--per_process_gpu_memory_fraction=x"],
)
def test_malformed(argument):
    with pytest.raises(MalformedFlag, match="Couldn't interpret value"):
        parse([argument])


def test_unknown_is_kept_and_nothing_else():
    assert parse(["--prot=1", "extra", "--model_name", "m"]).unknown == ("--prot=1", "extra", "--model_name", "m")


def test_flags_without_effect_are_named():
    flags = parse(["--rest_api_port=8501", "--flush_filesystem_caches=true", "--port=1"])
    assert flags.without_effect() == {Served.NO: ("flush_filesystem_caches",), Served.NOT_YET: ()}


def test_usage_lists_every_flag():
    text = usage("server")
    assert all(f"--{flag.name}=" in text for flag in FLAGS)
