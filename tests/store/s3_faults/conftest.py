"""What the tests of a misbehaving network and server share: moto, a proxy before it, and stores behind both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.staged_versions import stage
from s3_proxy import Proxy, proxy_to
from s3_server import S3Server, moto_server, options_for
from tfs_deploy.savedmodel.manifest import Manifest
from tfs_deploy.store.object_store.transfer import PART_BYTES
from tfs_deploy.store.open import open_store
from tfs_deploy.store.protocol import Store

Staged = tuple[Path, Manifest]
Open = Callable[..., Store]
INDEX = "variables/variables.index"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[Proxy]:
    with proxy_to(server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_bundle_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


@pytest.fixture(autouse=True)
def _no_faults_at_first(proxy: Proxy) -> Iterator[None]:
    proxy.start_over()
    yield
    proxy.start_over()


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/team"


@pytest.fixture(params=["obstore", "boto3"])
def transfer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def through_proxy(proxy: Proxy, uri: str, transfer: str) -> Open:
    return lambda **more: open_store(uri, s3=options_for(proxy.url, transfer=transfer, **more))


@pytest.fixture
def direct(server: S3Server, uri: str) -> Store:
    return open_store(uri, s3=server.options())


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    """A model with a file that is fetched and sent in pieces."""
    return stage(tmp_path / "staged", bytes(range(256)) * (PART_BYTES // 256 + 1))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"
