"""The files of docker/, as far as they can be tried without an engine."""

from __future__ import annotations

import re
import runpy
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tfs_deploy.containers.command_line import lint
from tfs_deploy.containers.options import DEFAULT_IMAGE, check_image
from tfs_deploy.gateway.config_file import read_config

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))
TEXT = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
# Ends by itself when the database is as it should be.
ONE_SHOT = {"airflow-init"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image(path: Path) -> None:
    """Any base, pinned by default; what it copies is there; no process runs as root; no secret is asked for."""
    text = path.read_text(encoding="utf-8")
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert check_image(base) == base
    assert ":" in base
    assert not base.endswith(":latest")
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users[0] == "root", "whatever the base's user is"
    assert users[-1] not in ("root", "0")
    for copied in re.findall(r"^COPY (?:--chown=\S+ )?(.+) \S+$", text, re.MULTILINE):
        for name in copied.split():
            assert (DOCKER.parent / name).exists(), name
    assert not re.search(r"^(ARG|ENV).*(PASSWORD|SECRET|TOKEN|KEY)", text, re.MULTILINE)


def test_every_folder_with_an_image_is_tried() -> None:
    assert {path.parent.name for path in DOCKERFILES} == {
        "airflow", "deployer", "gateway", "model-server", "postgres", "s3"
    }  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_service(name: str) -> None:
    service = SERVICES[name]
    assert "healthcheck" in service or name in ONE_SHOT
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    (default,) = re.findall(r"^\$\{\w+_IMAGE:-(\S+)\}$", service["image"])
    check_image(default)
    if "build" not in service:
        assert ":" in default, "what we do not build is pinned"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "reached from this machine only"
    for needed, condition in service.get("depends_on", {}).items():
        assert needed in SERVICES
        assert condition["condition"] in ("service_healthy", "service_completed_successfully")


def test_the_model_server_is_told_what_it_understands() -> None:
    server = SERVICES["model-server"]
    assert server["image"] == "${MODEL_SERVER_IMAGE:-" + DEFAULT_IMAGE + "}"
    lint(server["command"])
    assert server["user"].partition(":")[0] not in ("0", "root")


def test_secrets_come_from_outside_only(tmp_path: Path) -> None:
    """Every variable without a default is one that `stack.sh env` makes, anew each time, for its owner alone."""
    wanted = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert {"POSTGRES_PASSWORD", "JWT_SECRET", "FERNET_KEY", "S3_SECRET", "GATEWAY_KEY"} <= wanted
    assert wanted == set(re.findall(r"\$\{(\w+)(?::\?[^}]*)?\}", TEXT)), "a variable has a default or is required"
    made = []
    for name in ("one", "two"):
        path = tmp_path / name
        subprocess.run([DOCKER / "stack.sh", "env"], env={"PATH": "/usr/bin:/bin", "ENV_FILE": str(path)}, check=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        made.append(dict(line.split("=", 1) for line in lines))
    assert set(made[0]) == wanted
    for name in wanted:
        assert made[0][name] != made[1][name]
        assert len(made[0][name]) >= 32
    # It is kept: the volumes of the stack were made with it.
    before = (tmp_path / "one").read_text()
    subprocess.run(
        [DOCKER / "stack.sh", "env"], env={"PATH": "/usr/bin:/bin", "ENV_FILE": str(tmp_path / "one")}, check=True
    )
    assert (tmp_path / "one").read_text() == before


def test_the_secrets_are_kept_out_of_git_and_of_builds() -> None:
    for name in (".gitignore", ".dockerignore"):
        assert re.search(r"^docker/\.env", (DOCKER.parent / name).read_text(), re.MULTILINE), name


def test_the_gateway_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEYS", "stack:0123456789abcdef0123")
    config = read_config(DOCKER / "gateway" / "gateway.yaml")
    assert set(config.models) == {"digits"}
    assert config.auth.keys_env == "GATEWAY_KEYS"


@pytest.mark.skipif("sys.version_info < (3, 11)", reason="the images have Python 3.11, with tomllib")
def test_requirements_of_extras(tmp_path: Path) -> None:
    requirements = runpy.run_path(str(DOCKER / "requirements.py"))["requirements"]
    project = {
        "name": "airflow-provider-tfs-deploy",
        "optional-dependencies": {"a": ["x>=1"], "b": ["airflow-provider-tfs-deploy[a, c]", "y>=2"], "c": ["z"]},
    }
    assert list(requirements(project, ["b"])) == ["x>=1", "z", "y>=2"]
    assert list(requirements(project, [])) == []
