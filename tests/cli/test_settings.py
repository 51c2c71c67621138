"""Where the store and the servers are: precedence, the settings file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfs_deploy.cli.settings import FILE_NAME, GroupOptions, Settings, read_settings
from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group import Mode


def settings(directory: Path, *, environ: dict[str, str] | None = None, **flags: object) -> Settings:
    return read_settings(GroupOptions(**flags), environ=environ or {}, directory=directory)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("store: /file\ntarget: file:1\ngroup: file\n")
    environ = {"TFS_DEPLOY_STORE": "/environment", "TFS_DEPLOY_GROUP": "environment"}

    found = settings(tmp_path, environ=environ, store="/flag")

    assert (found.store, found.group, found.target) == ("/flag", "environment", "file:1")


def test_an_empty_environment_variable_says_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("store: /file\n")
    assert settings(tmp_path, environ={"TFS_DEPLOY_STORE": ""}).store == "/file"


def test_without_a_word_the_group_is_default_and_everything_else_is_asked_for(tmp_path: Path) -> None:
    found = settings(tmp_path)

    assert found.group == "default"
    with pytest.raises(InvalidInput, match="--store"):
        found.store_uri()
    with pytest.raises(InvalidInput, match="--target"):
        found.serving_group("/store")


def test_the_file_may_say_everything(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"-----BEGIN CERTIFICATE-----")
    (tmp_path / FILE_NAME).write_text(
        "store: models\n"
        "target: [a:1, b]\n"
        "group: blue\n"
        "model_root: /models\n"
        "mode: latest\n"
        "startup_config: conf/models.config\n"
        "tls: {root_certificates: ca.pem, server_name: serving}\n"
        "s3: {endpoint_url: 'http://s3:9000', region: eu-west-1, path_style: true, ca_bundle: ca.pem}\n"
        "timeouts: {status: 1, load: 900}\n"
    )

    found = settings(tmp_path)
    group = found.serving_group(found.store_uri())

    assert found.store == str(tmp_path / "models")
    assert group.replicas == ("a:1", "b:8500")
    assert (group.name, group.model_root, group.mode) == ("blue", "/models", Mode.LATEST)
    assert group.startup_config == str(tmp_path / "conf/models.config")
    assert found.tls is not None
    assert (found.tls.root_certificates, found.tls.server_name) == (b"-----BEGIN CERTIFICATE-----", "serving")
    assert (found.s3.endpoint_url, found.s3.region, found.s3.path_style) == ("http://s3:9000", "eu-west-1", True)
    assert found.s3.ca_bundle == str(tmp_path / "ca.pem")
    assert (found.timeouts.status, found.timeouts.reload) == (1.0, 30.0)
    assert (found.wait.load, found.wait.discovery, found.wait.rpc) == (900.0, 60.0, 1.0)


def test_paths_in_a_named_file_count_from_its_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("store: models\n")

    assert settings(tmp_path, config=elsewhere / "mine.yaml").store == str(elsewhere / "models")


def test_servers_read_the_store_itself_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, target="a:1").serving_group("/store").model_root == "/store"


def test_a_uri_in_the_file_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("store: file:///models\n")
    assert settings(tmp_path).store == "file:///models"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stroe: /models", "stroe"),
        ("store: 7", "store"),
        ("mode: fastest", "mode"),
        ("tls: {key: a}", "key"),
        ("timeouts: {load: 0}", "load"),
        ("timeouts: {patience: 1}", "patience"),
        ("- store", "does not fit"),
        ("store: [", "not YAML"),
        ("model_root: models", "absolute"),
        ("tls: {private_key: no.pem}", "no.pem"),
        ("tls: {root_certificates: no.pem}", r"no\.pem' that the settings file .* names as tls.root_certificates"),
        ("target: [a, b:x]", r"'b:x' is not host:port \(target in "),
        ("group: a/b", "a/b"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InvalidInput, match=told):
        settings(tmp_path)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no\.yaml"):
        settings(tmp_path, config=tmp_path / "no.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="not YAML"):
        settings(tmp_path)


def test_the_actor_is_who_is_named_or_who_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("socket.gethostname", lambda: "desk")

    assert settings(tmp_path).actor == "ann@desk"
    assert settings(tmp_path, environ={"TFS_DEPLOY_ACTOR": "ci"}).actor == "ci"
    assert settings(tmp_path, environ={"TFS_DEPLOY_ACTOR": "ci"}, actor="bob").actor == "bob"


def test_a_user_without_a_name_is_named_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)

    assert settings(tmp_path).actor.startswith("uid 4711@")


def test_no_key_shows_up_where_settings_are_printed(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"-----BEGIN PRIVATE KEY----- hush")
    (tmp_path / "chain.pem").write_bytes(b"-----BEGIN CERTIFICATE-----")
    (tmp_path / FILE_NAME).write_text("tls: {private_key: key.pem, certificate_chain: chain.pem}\n")
    assert "hush" not in repr(settings(tmp_path))
