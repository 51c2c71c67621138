"""Settings of a serving group: what is refused, by the name that the field has where it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfs_deploy.errors import InvalidInput
from tfs_deploy.serving.group import GroupSettings, SettingsSource, TLSFiles

FILE = SettingsSource("the settings file a.yaml", targets="target in a.yaml", tls_prefix="tls.")
CONNECTION = SettingsSource("the connection 'here'", targets="host of the connection 'here'")


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        (FILE, {"hosts": ("a", "b:x")}, r"'b:x' is not host:port \(target in a\.yaml\)"),
        (CONNECTION, {"hosts": ("b:x",)}, r"'b:x' is not host:port \(host of the connection 'here'\)"),
        (CONNECTION, {"hosts": ("dns:",)}, "is not host:port"),
        (FILE, {"model_root": "models"}, "'models' in the settings file a.yaml is not an absolute path"),
        (FILE, {"tls": TLSFiles(private_key="k")}, r"only one of tls\.private_key and tls\.certificate_chain \(k\)"),
        (CONNECTION, {"tls": TLSFiles(certificate_chain="c")}, r"The connection 'here' names only one of private_key"),
        (FILE, {"name": "a/b"}, "group name 'a/b'"),
    ],
)
def test_a_mistake_is_reported_by_the_name_of_its_field(source, fields, message):
    with pytest.raises(InvalidInput, match=message):
        GroupSettings(source=source, **fields)


def test_the_group_takes_the_store_for_the_model_root_unless_one_is_named():
    settings = GroupSettings(source=FILE, hosts=("a", "b:1"), default_port=9000)
    assert settings.targets() == ("a:9000", "b:1")
    assert settings.serving_group(store_root="/store").model_root == "/store"
    assert settings.serving_group(store_root="/store", name="blue").name == "blue"
    named = GroupSettings(source=FILE, hosts=("a",), model_root="/models")
    assert named.serving_group(store_root="/store").model_root == "/models"


def test_tls_files_are_read_below_their_folder(tmp_path: Path):
    (tmp_path / "ca.pem").write_bytes(b"-----BEGIN CERTIFICATE-----")
    files = TLSFiles(root_certificates="ca.pem", server_name="serving").below(tmp_path)
    options = GroupSettings(source=FILE, tls=files).tls_options()
    assert (options.root_certificates, options.private_key) == (b"-----BEGIN CERTIFICATE-----", None)
    assert options.server_name == "serving"
    assert GroupSettings(source=FILE).tls_options() is None
    absent = GroupSettings(source=CONNECTION, tls=TLSFiles(root_certificates="no.pem").below(tmp_path))
    with pytest.raises(InvalidInput, match=r"no\.pem' that the connection 'here' names as root_certificates cannot"):
        absent.tls_options()
