"""Connections of type `tf_serving`: what may stand in them, and what is told about one that does not fit."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk import Connection
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime
from jsonschema import Draft7Validator

import airflow
from tfs_deploy.errors import InvalidInput
from tfs_deploy.hooks.group_settings import GroupExtra
from tfs_deploy.hooks.tf_serving import TFServingHook, as3_options, s3_options
from tfs_deploy.provider_info import get_provider_info
from tfs_deploy.serving.group import Mode
from tfs_deploy.store.object_store.connection import S3Options

pytestmark = pytest.mark.airflow


def connection(monkeypatch: pytest.MonkeyPatch, **fields: object) -> TFServingHook:
    monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": "tf_serving", **fields}))
    return TFServingHook("here")


@pytest.mark.parametrize(
    ("host", "port", "targets"),
    [
        ("serving", None, ("serving:8500",)),
        ("serving", 9000, ("serving:9000",)),
        ("a:1, b ,c:3", 9000, ("a:1", "b:9000", "c:3")),
        ("10.0.0.7", 8501, ("10.0.0.7:8501",)),
        ("[::1]", 9000, ("[::1]:9000",)),
        ("[::1]:8500", 9000, ("[::1]:8500",)),
        ("fe80::1", 9000, ("[fe80::1]:9000",)),
        ("dns:localhost:7000", 9000, ("127.0.0.1:7000",)),
        ("dns:localhost", 9000, ("127.0.0.1:9000",)),
    ],
)
def test_replicas(monkeypatch: pytest.MonkeyPatch, host: str, port: int | None, targets: tuple[str, ...]) -> None:
    found = connection(monkeypatch, host=host, port=port).get_conn().targets()
    # A machine may have localhost in IPv6 as well.
    assert tuple(target for target in found if not host.startswith("dns:") or "127.0.0.1" in target) == targets


def test_group_and_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = {"store": str(tmp_path), "group": "blue", "startup_config": "", "mode": "latest", "model_root": None}
    settings = connection(monkeypatch, host="a", extra=extra).get_conn()
    group = settings.serving_group(store_root="/models/here")
    assert (group.name, group.mode, group.model_root, group.startup_config) == (
        "blue",
        Mode.LATEST,
        "/models/here",
        None,
    )
    assert settings.store_uri() == str(tmp_path)
    assert settings.store_uri("elsewhere") == "elsewhere"
    assert settings.serving_group(store_root="/x", name="green").name == "green"


def test_default_group_serves_by_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = connection(monkeypatch, host="a", extra={"model_root": "/models"}).get_conn()
    group = settings.serving_group(store_root="/store")
    assert (group.name, group.mode, group.model_root) == ("default", Mode.LABELS, "/models")
    with pytest.raises(InvalidInput, match="'here' names no store"):
        settings.store_uri()


def test_a_connection_may_be_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HERE", "tf-serving://serving:9000/?store=%2Fmodels&tls=true")
    settings = TFServingHook("here").get_conn()
    assert settings.targets() == ("serving:9000",)
    assert settings.extra.tls is True
    assert settings.store_uri() == "/models"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "'here' has no host"),
        ({"host": " , "}, "'here' has no host"),
        ({"host": "a:b:c"}, "not host:port|not an address"),
        ({"host": "a:99999"}, "'a:99999' is not host:port"),
        ({"host": "http://a:8500"}, "is not host:port"),
        ({"host": "a", "extra": {"startup_confg": "/x"}}, "startup_confg"),
        ({"host": "a", "extra": {"mode": "blue-green"}}, "blue-green"),
        ({"host": "a", "extra": {"tls": "perhaps"}}, r"\$\.tls"),
        ({"host": "a", "extra": {"root_certificates": "ca.pem"}}, "root_certificates, but tls is off"),
        ({"host": "a", "extra": {"tls": True, "private_key": "key.pem"}}, "only one of private_key and"),
        ({"host": "a", "extra": ["store"]}, "not a JSON object"),
        ({"host": "a", "extra": "{broken"}, "not a JSON object"),
        ({"host": "a", "conn_type": "http"}, "is of type 'http'"),
    ],
)
def test_bad_connections(monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], told: str) -> None:
    hook = connection(monkeypatch, **fields)
    with pytest.raises(InvalidInput, match=told):
        hook.get_conn()
    done, message = hook.test_connection()
    assert not done
    assert "here" in message or "a:" in message


def test_pem_files_are_read_by_path_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nsecret\n")
    chain.write_text("-----BEGIN CERTIFICATE-----\npublic\n")
    extra = {"tls": True, "private_key": str(key), "certificate_chain": str(chain), "server_name": "serving"}
    settings = connection(monkeypatch, host="a", extra=extra).get_conn()
    tls = settings.tls_options()
    assert tls is not None
    assert (tls.private_key, tls.certificate_chain) == (key.read_bytes(), chain.read_bytes())
    assert tls.root_certificates is None
    assert "secret" not in repr(tls) + repr(settings)


def test_pem_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = {"tls": True, "root_certificates": str(tmp_path / "ca.pem")}
    with pytest.raises(InvalidInput, match="root_certificates cannot be read"):
        connection(monkeypatch, host="a", extra=extra).get_conn().tls_options()


def test_the_test_button(group, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TFServingHook().test_connection() == (True, "1 replica answers, and the store can be read.")
    group.connect(group.target, store=str(group.folder / "no" / "store"))
    assert TFServingHook().test_connection()[0] is False
    group.connect("127.0.0.1:1")
    done, told = TFServingHook().test_connection()
    assert not done
    assert "127.0.0.1:1" in told


def test_airflow_knows_the_form() -> None:
    hook = ProvidersManagerTaskRuntime().hooks["tf_serving"]
    assert hook is not None
    assert hook.hook_class_name == "tfs_deploy.hooks.tf_serving.TFServingHook"
    assert hook.connection_id_attribute_name == "tf_serving_conn_id"
    manager = ProvidersManager()
    behaviour = manager.field_behaviours["tf_serving"]
    assert behaviour["relabeling"] == {"host": "Replicas", "port": "Default port"}
    shown = {key.rpartition("__")[2] for key in manager.connection_form_widgets if "__tf_serving__" in key}
    assert shown == set(GroupExtra.__struct_fields__)


def test_the_form_is_in_the_words_of_airflows_schema() -> None:
    folder = Path(airflow.__file__).parent
    info = get_provider_info()
    Draft7Validator(json.loads((folder / "provider_info.schema.json").read_text())).validate(info)
    schema = json.loads((folder / "provider.yaml.schema.json").read_text())
    Draft7Validator(schema["properties"]["connection-types"]).validate(info["connection-types"])


def test_the_hook_is_what_airflow_makes_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Connection(conn_id="here", conn_type="tf_serving", host="a").get_hook()
    assert isinstance(hook, TFServingHook)
    assert hook.tf_serving_conn_id == "here"


def aws(monkeypatch: pytest.MonkeyPatch, **fields: object) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps({"conn_type": "aws", **fields}))
    return "cloud"


def test_an_aws_connection_says_how_to_reach_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint_url": "http://s3:9000", "region_name": "eu-west-1", "aws_session_token": "token"}
    options = s3_options(aws(monkeypatch, login="id", password="secret", extra=extra))
    assert options == S3Options(
        endpoint_url="http://s3:9000",
        region="eu-west-1",
        access_key_id="id",
        secret_access_key="secret",
        session_token="token",
    )
    assert "secret" not in repr(options)
    assert asyncio.run(as3_options("cloud")) == options
    assert s3_options(aws(monkeypatch, extra={"verify": "/etc/ca.pem"})) == S3Options(ca_bundle="/etc/ca.pem")
    assert s3_options(aws(monkeypatch, extra={"verify": False})) == S3Options(verify_tls=False)
    assert s3_options(aws(monkeypatch)) == S3Options()


def test_without_an_aws_connection_the_workers_own_credentials_count() -> None:
    assert s3_options("") is None
    assert asyncio.run(as3_options("")) is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"conn_type": "http"}, "of type 'http'"),
        ({"extra": {"role_arn": "arn:aws:iam::1:role/x"}}, "sets role_arn"),
        ({"login": "id"}, "Only one of the S3 access key's id and its secret"),
        ({"extra": {"endpoint_url": "s3:9000"}}, "is not a URL"),
    ],
)
def test_an_aws_connection_that_would_be_misread_is_refused(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        s3_options(aws(monkeypatch, **fields))
    with pytest.raises(InvalidInput, match=told):
        asyncio.run(as3_options("cloud"))


def test_a_store_in_s3_needs_the_servers_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"store": "s3://bucket/models"}
    with pytest.raises(InvalidInput, match="cannot read 's3://bucket/models'"):
        connection(monkeypatch, host="a", extra=extra).get_conn().serving_group(store_root="s3://bucket/models")
