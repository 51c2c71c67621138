"""The ConfigProto of the sessions, from flags and file: contract 1. A process of its own imports TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

SCRIPT = """
import json, sys
from tfs_deploy.modelserver import flags
from tfs_deploy.modelserver.graph import session
for arguments in json.loads(sys.argv[1]):
    made = session.session_config(flags.parse(arguments))
    print(json.dumps([
        made.intra_op_parallelism_threads, made.inter_op_parallelism_threads,
        made.experimental.disable_thread_spinning, made.gpu_options.per_process_gpu_memory_fraction,
        made.allow_soft_placement,
    ]))
"""


def test_flags_win_over_the_file_and_the_file_over_our_defaults(tmp_path):
    full, spinning = tmp_path / "full", tmp_path / "spinning"
    full.write_text(
        "intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 4 allow_soft_placement: true\n"
        "gpu_options { per_process_gpu_memory_fraction: 0.25 }\n"
    )
    spinning.write_text("experimental { disable_thread_spinning: false }")
    file, intra, both = (
        f"--tensorflow_session_config_file={full}",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_session_parallelism=2",
    )
    cases = [
        ([], [0, 0, True, 0.0, False]),
        ([file], [3, 4, True, 0.0, True]),
        ([file, intra], [1, 4, True, 0.0, True]),
        ([file, both], [2, 2, True, 0.0, True]),
        ([both, intra], [1, 0, True, 0.0, False]),
        ([f"--tensorflow_session_config_file={spinning}"], [0, 0, False, 0.0, False]),
        (["--per_process_gpu_memory_fraction=0.5"], [0, 0, True, 0.5, False]),
    ]
    arguments = json.dumps([flags for flags, _ in cases])
    done = subprocess.run([sys.executable, "-c", SCRIPT, arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [expected for _, expected in cases]
