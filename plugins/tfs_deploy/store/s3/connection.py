"""Open boto3's client for a store, from its options."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

from tfs_deploy.errors import MissingExtra, StoreError
from tfs_deploy.store.s3.address import S3Address
from tfs_deploy.store.s3.options import S3Options

# As many as the threads that wait for small objects, and some for pieces of large ones.
MAX_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Connection:
    """A boto3 session and its client for one bucket."""

    address: S3Address
    options: S3Options
    session: Any
    client: Any

    @property
    def endpoint(self) -> str:
        """Return the URL that requests go to, without the bucket."""
        return str(self.client.meta.endpoint_url)

    @property
    def path_style(self) -> bool:
        """Tell whether the bucket is named in the path instead of the host name."""
        return _path_style(self.options, self.session)


def connect(address: S3Address, options: S3Options) -> Connection:
    """Return the connection; nothing is sent yet."""
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingExtra("boto3", "s3") from error
    try:
        core = botocore.session.Session(profile=options.profile)
        # Parsing boto3's descriptions of S3 takes longer than most requests: once per process.
        core.register_component("data_loader", _descriptions())
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
            region_name=options.region,
        )
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if _path_style(options, session) else "auto"},
            retries={"mode": "standard", "total_max_attempts": options.max_retries + 1},
            connect_timeout=options.connect_timeout_seconds,
            read_timeout=options.read_timeout_seconds,
            max_pool_connections=MAX_CONNECTIONS,
            # The digests are sent and compared where they are known; other servers know no further ones.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = session.client(
            "s3",
            endpoint_url=options.endpoint_url,
            verify=(options.ca_bundle or None) if options.verify_tls else False,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise StoreError(
            f"boto3 cannot connect to {address.uri!r}: {type(error).__name__}: {error}.",
            "Check the profile, the region and the endpoint.",
        ) from None
    return Connection(address, options, session, client)


@functools.cache
def _descriptions() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


def _path_style(options: S3Options, session: Any) -> bool:
    if options.path_style is not None:
        return options.path_style
    if options.endpoint_url:
        return True
    # boto3 takes an endpoint from its environment and its config file, too.
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        return True
    profile = session._session.get_scoped_config()
    return bool(profile.get("endpoint_url"))
