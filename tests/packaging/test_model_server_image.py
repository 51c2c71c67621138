"""The image of the embedded model server: its entry point is tried here with a program that stands in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "model-server"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def environment(tmp_path: Path, body: str, **variables: str) -> dict[str, str]:
    """Return an environment in which `tensorflow_model_server` is a script with `body`."""
    program = tmp_path / "tensorflow_model_server"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    told = dict(re.findall(r"(MODEL_\w+)=(\S+)", DOCKERFILE))
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", **told, **variables}


def test_the_conventions_of_the_image(tmp_path: Path) -> None:
    assert re.search(r"^EXPOSE 8500 8501$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER (?!root)", DOCKERFILE, re.MULTILINE)
    assert 'ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]' in DOCKERFILE
    assert "TF_ENABLE_ONEDNN_OPTS=0" in DOCKERFILE
    for copied in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in copied.split():
            assert (FOLDER.parents[1] / name).exists(), name


def test_flags_come_from_the_environment_and_arguments_are_appended(tmp_path: Path) -> None:
    body = 'for one in "$@"; do echo "$one"; done'
    for variables, path in (({}, "/models/model"), ({"MODEL_NAME": "a b", "MODEL_BASE_PATH": "/m"}, "/m/a b")):
        done = subprocess.run(
            [FOLDER / "entrypoint.sh", "--enable_batching", "--rest_api_port=0", "--x=a b"],
            env=environment(tmp_path, body, **variables),
            capture_output=True,
            text=True,
            check=True,
        )
        name = path.rpartition("/")[2]
        assert done.stdout.splitlines() == [
            "--port=8500",
            "--rest_api_port=8501",
            f"--model_name={name}",
            f"--model_base_path={path}",
            "--enable_batching",
            "--rest_api_port=0",
            "--x=a b",
        ]


def test_sigterm_and_the_exit_status_are_the_servers_own(tmp_path: Path) -> None:
    body = f"trap 'exit 7' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    process = subprocess.Popen([FOLDER / "entrypoint.sh"], env=environment(tmp_path, body))
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert int((tmp_path / "pid").read_text()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 7
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
