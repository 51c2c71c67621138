"""The lint of the command line, against the table of the contract and against the embedded server's parser."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.containers.command_line import lint
from tfs_deploy.errors import InvalidInput
from tfs_deploy.modelserver import flags as embedded
from tfs_deploy.serving.flags import FLAGS, FlagType


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("--enable_batchng", "--enable_batching"),
        ("--model-config-file=/a", "--model_config_file"),
        ("--max_load_retries=2", "--max_num_load_retries"),
        ("--grpc_port=8500", "--port"),
        ("--rest_port=8501", "--rest_api_port"),
        ("--file_system_poll_wait=1", "--file_system_poll_wait_seconds"),
        ("--per_process_gpu_memory_fracton=0.5", "--per_process_gpu_memory_fraction"),
        ("--noenable_batching", "--enable_batching=false"),
        ("--allow_labels_for_unavailable_models=true", "--allow_version_labels_for_unavailable_models"),
        ("--monitoring_file=/a", "--monitoring_config_file"),
    ],
)
def test_a_misspelt_flag_is_caught(written: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match="has no flag") as caught:
        lint([written])
    assert meant in caught.value.remedy


def test_a_flag_that_resembles_none() -> None:
    with pytest.raises(InvalidInput, match="--help"):
        lint(["--qqq=1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "8500"], "has no value"),
        (["8500"], "is no flag"),
        (["--"], "is no flag"),
        (["-port=1"], "is no flag"),
        (["--port=8500x"], "a whole number of 32 bits"),
        (["--port=2147483648"], "a whole number of 32 bits"),
        (["--enable_batching=yes"], "true or false"),
        (["--enable_batching="], "true or false"),
        (["--per_process_gpu_memory_fraction=half"], "a number"),
        (["--per_process_gpu_memory_fraction=1.5"], "between 0 and 1"),
        (["--batching_parameters_file=/a"], "without --enable_batching"),
        (["--port=1", "--rest_api_port=1"], "both given port 1"),
        (["--ssl_config_file=/a", "--use_alts_credentials"], "exclude each other"),
        (["--tensorflow_session_parallelism=2", "--tensorflow_intra_op_parallelism=2"], "intra"),
        (["--file_system_poll_wait_seconds=-1"], "hangs"),
        (["--model_base_path=s3://bucket/models"], "cannot read"),
        (["--model_base_path=models"], "relative"),
    ],
)
def test_what_the_server_would_ignore_misread_or_end_on(arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)):
        lint(arguments)


def test_what_is_right_passes() -> None:
    told = lint(["--port=1", "--port=8500", "--rest_api_port=0", "--enable_batching", "--model_base_path=gs://a/b"])
    assert told == {"port": "8500", "rest_api_port": "0", "enable_batching": "true", "model_base_path": "gs://a/b"}


@given(st.sampled_from(sorted(FLAGS)), st.text(alphabet="0123456789truefals.-+e/ x", max_size=12))
def test_what_the_lint_accepts_the_server_reads_as_meant(name: str, value: str) -> None:
    """The server is more lenient (blanks, inf); what we let through it must read as that flag and no other."""
    argument = f"--{name}={value}"
    try:
        lint([argument])
    except InvalidInput:
        return
    read = embedded.parse([argument])
    assert read.given == {name}
    assert read.unknown == ()
    if FLAGS[name].type is FlagType.BOOL:
        assert read.switch(name) is (value == "true")


@given(st.text(max_size=30))
def test_any_text_gets_an_answer_or_a_sentence(text: str) -> None:
    flag = FLAGS.get(text.removeprefix("--").partition("=")[0]) if text.startswith("--") else None
    with pytest.raises(InvalidInput, match=r"\.") if flag is None else suppress(InvalidInput):
        lint([text])
