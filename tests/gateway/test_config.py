"""The gateway's YAML file: what it says is what is meant, and each mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import MIB, GatewayConfig
from tfs_deploy.gateway.config_file import config_from, read_config
from tfs_deploy.gateway.processors.model_processors import make_model_processors
from tfs_deploy.gateway.processors.registry import make_postprocessor

WHOLE = """
listen: {port: 8443, address: 0.0.0.0, tls: {certificate: tls/server.pem, key: tls/server.key}}
replicas: [10.0.0.1, "10.0.0.2:8501", "dns:models.example:8500"]
replica_tls: {root_certificates: tls/ca.pem, server_name: models}
limits: {body_mib: 4, items: 8, concurrency: 32, queue: 16, timeout_seconds: 2.5, drain_seconds: 10}
health: {interval_seconds: 0.25, max_age_seconds: 0.75}
retries: {seconds: 1, lost: 0}
auth: {keys_file: keys.txt}
cors: {origins: [https://app.example, "http://localhost:3000"]}
fetch: {allow_hosts: [pictures.internal, 10.1.0.0/16], max_mib: 2, timeout_seconds: 1, redirects: 0, parallel: 4}
pool: {workers: 2}
models:
  digits:
    model: digits-cnn
    labels: [previous]
    processor: {name: images, options: {size: [8, 8], mode: L, scale: 0.0627}}
    postprocessor: {name: classification, options: {output: probabilities, top: 3}, in_pool: true}
    micro_batching: {max_rows: 16, wait_ms: 2}
    canary: {percent: 5, sticky_header: X-User}
    shadow: {label: next, percent: 10}
    hedging: {after_ms: 50}
    capture: {percent: 1, directory: captures, redact: [text], max_mib: 64}
  plain: {}
"""


def config(**changes: Any) -> GatewayConfig:
    return config_from({"models": {"m": {}}, "replicas": ["127.0.0.1:8500"], **changes})


def test_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(WHOLE)
    read = read_config(file)
    assert read.listen.tls is not None
    assert read.listen.tls.certificate == str(tmp_path / "tls/server.pem")
    assert read.listen.tls.key == str(tmp_path / "tls/server.key")
    assert read.replica_tls is not None
    assert read.replica_tls.root_certificates == str(tmp_path / "tls/ca.pem")
    assert read.replica_tls.private_key is None
    assert read.auth.keys_file == str(tmp_path / "keys.txt")
    assert read.limits.body_bytes == 4 * MIB
    assert read.fetch.max_bytes == 2 * MIB
    digits = read.models["digits"]
    assert digits.model == "digits-cnn"
    assert digits.processor.options == {"size": [8, 8], "mode": "L", "scale": 0.0627}
    assert digits.processor.in_pool is None
    assert digits.postprocessor is not None
    assert digits.postprocessor.in_pool is True
    assert digits.canary is not None
    assert (digits.canary.label, digits.canary.percent) == ("canary", 5.0)
    assert digits.capture is not None
    assert digits.capture.directory == str(tmp_path / "captures")
    assert read.models["plain"].processor.name == "tensors"


def test_defaults_are_for_this_machine_only() -> None:
    read = config()
    assert read.listen.loopback
    assert read.models["m"].label == "stable"
    assert not read.auth.open


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_keys(address: str) -> None:
    assert config(listen={"address": address}).listen.loopback


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.7", "gateway.example"])
def test_other_addresses_need_keys_or_the_word_open(address: str) -> None:
    with pytest.raises(InvalidInput, match="can be reached from other machines"):
        config(listen={"address": address})
    assert not config(listen={"address": address}, auth={"keys_env": "KEYS"}).listen.loopback
    assert config(listen={"address": address}, auth={"open": True}).auth.open


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": {}}, "`models` is empty"),
        ({"models": {"a/b": {}}}, "`models.a/b`: The model name 'a/b' is not usable"),
        ({"models": {"m": {"label": "a b"}}}, r"`models.m.label`: The label 'a b'"),
        ({"models": {"m": {"labels": [""]}}}, r"`models.m.label`: The label ''"),
        ({"models": {"m": {"lable": "stable"}}}, "unknown field `lable`"),
        ({"models": {"m": {"canary": {"percent": 101}}}}, r"<= 100.0 - at `\$.models\[...\].canary.percent`"),
        ({"models": {"m": {"canary": {"label": "stable"}}}}, "`models.m.canary.label` is the model's own label"),
        ({"models": {"m": {"shadow": {"label": "stable"}}}}, "`models.m.shadow.label` is the model's own label"),
        ({"models": {"m": {"canary": {"sticky_header": "X User"}}}}, "'X User' is not a header name"),
        ({"models": {"m": {"hedging": {}}}}, "missing required field `after_ms`"),
        ({"models": {"m": {"micro_batching": {"wait_ms": 0}}}}, "wait_ms"),
        ({"models": {"m": {"replicas": ["a b"]}}}, "`models.m.replicas`: The model server address 'a b'"),
        ({"models": {"m": {"processor": {"options": {}}}}}, "missing required field `name`"),
        ({"replicas": []}, "neither `replicas` nor `models.m.replicas` names a model server"),
        ({"replicas": ["host:99999"]}, "`replicas`: The model server address 'host:99999'"),
        ({"replicas": "127.0.0.1:8500"}, r"Expected `array`, got `str` - at `\$.replicas`"),
        ({"listen": {"port": 65536}}, "port"),
        ({"listen": {"address": ""}}, "`listen.address` is empty"),
        ({"listen": {"tls": {"certificate": "c.pem"}}}, "missing required field `key`"),
        ({"limits": {"timeout_seconds": 0}}, "timeout_seconds"),
        ({"limits": {"concurrency": True}}, "concurrency"),
        ({"auth": {"open": True, "keys_file": "k"}}, "`auth` is open and has keys"),
        ({"auth": {"keys_file": ""}}, r"length >= 1 - at `\$.auth.keys_file`"),
        ({"auth": {"keys_env": ""}}, r"length >= 1 - at `\$.auth.keys_env`"),
        ({"cors": {"origins": ["app.example"]}}, "which is not like https://app.example"),
        ({"cors": {"origins": ["https://app.example/"]}}, "which is not like https://app.example"),
        ({"health": {"interval_seconds": 2}}, "`health.max_age_seconds` is below `health.interval_seconds`"),
        ({"authn": {}}, "unknown field `authn`"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        config(**changes)


@pytest.mark.parametrize("text", ["", "[]", "null", "models: 3", "{", "\x00", "models: {m: {}}"])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"gateway\.yaml"):
        read_config(file)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no gateway configuration"):
        read_config(tmp_path / "none.yaml")


def test_paths_in_processor_options_count_from_the_files_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "labels.txt").write_text("zero\none\n")
    (tmp_path / "conf" / "words.txt").write_text("[PAD]\n[UNK]\na\n")
    (tmp_path / "absolute.txt").write_text("two\nthree\n")
    file = tmp_path / "conf" / "gateway.yaml"
    file.write_text(
        "replicas: [127.0.0.1:1]\n"
        "models:\n"
        "  m:\n"
        "    processor: {name: text, options: {input: x, vocabulary: words.txt}}\n"
        "    postprocessor: {name: classification, options: {labels_file: labels.txt}, in_pool: true}\n"
        f"  n: {{postprocessor: {{name: classification, options: {{labels_file: {tmp_path / 'absolute.txt'}}}}}}}\n"
        "  o: {capture: {directory: captures, upload: store}}\n"
        "  p: {capture: {directory: captures, upload: 's3://bucket/prefix'}}\n"
    )
    monkeypatch.chdir(tmp_path)
    read = read_config(Path("conf") / "gateway.yaml")
    made, pool = make_model_processors(read.models, read.pool)
    assert pool is not None
    scores = {"y": np.array([[0.1, 0.9]], np.float32)}
    for name, label in (("m", "one"), ("n", "three")):
        (result,) = made[name]._postprocessor.postprocess(scores)
        assert result["label"] == label
    # A process of the pool makes it again, from what it is sent.
    (spec,) = made["m"].pooled.values()
    assert make_postprocessor(spec).postprocess(scores)[0]["label"] == "one"
    uploads = [read.models[name].capture.upload for name in ("o", "p")]  # type: ignore[union-attr]
    assert uploads == ["conf/store", "s3://bucket/prefix"]


def test_where_paths_count_from_cannot_be_given() -> None:
    with pytest.raises(InvalidInput, match="unknown field `base`"):
        config(models={"m": {"processor": {"name": "tensors", "base": "/etc"}}})
