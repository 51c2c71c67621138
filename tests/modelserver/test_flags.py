"""The command line: contract 1. No TensorFlow."""

from __future__ import annotations

import pytest

from tfs_deploy.modelserver.flags import MalformedFlag, parse, usage
from tfs_deploy.serving.flags import FLAGS


def test_all_48_flags_of_tf_serving_2_20_with_their_defaults():
    assert len({flag.name for flag in FLAGS.values()}) == 48
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
    ("argument", "value", "flag"),
    [
        ("--port=abc", "abc", "port"), ("--port=", "", "port"), ("--port=3000000000", "3000000000", "port"),
        ("--port=8500 ", "8500 ", "port"), ("--port=0x10", "0x10", "port"), ("--port=1_000", "1_000", "port"),
        ("--enable_batching=maybe", "=maybe", "enable_batching"), ("--enable_batching=1", "=1", "enable_batching"),
        ("--enable_batching=", "=", "enable_batching"), ("--enable_batching=True", "=True", "enable_batching"),
        # What begins with the name of a boolean flag is taken for it.
        ("--enable_batchings=true", "s=true", "enable_batching"), ("--versions", "s", "version"),
        ("--per_process_gpu_memory_fraction=x", "x", "per_process_gpu_memory_fraction"),
    ],
)  # fmt: skip
def test_malformed(argument, value, flag):
    with pytest.raises(MalformedFlag) as raised:
        parse([argument])
    assert str(raised.value) == f"Couldn't interpret value {value} for flag {flag}."


@pytest.mark.parametrize(("text", "number"), [("7", 7), (" 7", 7), ("+7", 7), ("-7", -7), ("007", 7)])
def test_numbers_as_scanf_reads_them(text, number):
    assert parse([f"--port={text}"]).number("port") == number
    assert parse([f"--per_process_gpu_memory_fraction={text}"]).values["per_process_gpu_memory_fraction"] == number


def test_unknown_is_kept_and_nothing_else():
    arguments = (
        "--prot=1", "extra", "--model_name", "m", "-port=1", "--noenable_batching", "--no-enable_batching", "--Port=1",
    )  # fmt: skip
    flags = parse(arguments)
    assert flags.unknown == arguments
    assert not flags.given
    assert parse(["--port=1", "--", "--port=2"]).unknown == ("--", "--port=2")


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [(["--help"], True), (["--port=1", "--help"], True), (["--wrong", "--help"], False), (["--port=1"], False)],
)
def test_help_must_be_the_first_that_is_no_flag(arguments, asks):
    assert parse(arguments).asks_for_help is asks


def test_no_boolean_flag_takes_the_arguments_of_another():
    switches = [flag.name for flag in FLAGS.values() if isinstance(flag.default, bool)]
    assert not [(a, b.name) for a in switches for b in FLAGS.values() if b.name != a and b.name.startswith(a)]


def test_flags_without_effect_are_named():
    flags = parse(["--rest_api_port=8501", "--flush_filesystem_caches=true", "--enable_profiler", "--port=1"])
    assert flags.without_effect() == ("enable_profiler", "flush_filesystem_caches")


def test_usage_lists_every_flag():
    text = usage("server")
    assert all(f"--{flag.name}=" in text for flag in FLAGS.values())


def test_the_type_of_a_flag_is_that_of_its_default():
    kinds = {bool: {"bool"}, str: {"string"}, float: {"float"}, int: {"int32", "int64"}}
    assert all(flag.type.value in kinds[type(flag.default)] for flag in FLAGS.values())
