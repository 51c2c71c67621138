"""Settings of the connection to an S3-compatible store, and boto3's client opened with them."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from tfs_deploy.errors import InvalidInput, MissingExtra, StoreError
from tfs_deploy.store.object_store.address import S3Address


@dataclass(frozen=True, slots=True)
class S3Options:
    """Connection settings; the secrets appear in no representation, log line or error.

    ``path_style`` is the default with an ``endpoint_url``, since most servers other than Amazon's need it.
    ``transfer`` chooses the library that transfers file contents; "auto" is obstore where it is installed.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    verify_tls: bool = True
    ca_bundle: str | None = None
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    max_retries: int = 5
    transfer: Literal["auto", "obstore", "boto3"] = "auto"

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise InvalidInput(
                "Only one of the S3 access key's id and its secret is given.",
                "Give both, or neither to use boto3's own chain.",
            )
        check_endpoint(self.endpoint_url or "")
        if self.endpoint_url is not None and not self.endpoint_url.startswith(("http://", "https://")):
            raise InvalidInput(
                f"The S3 endpoint {self.endpoint_url!r} is not a URL.", "Give it as http://host:port or https://host."
            )
        if self.connect_timeout_seconds <= 0 or self.read_timeout_seconds <= 0 or self.max_retries < 0:
            raise InvalidInput(
                "The S3 timeouts must be above 0 and the number of retries not below 0.", "Correct the options."
            )
        if self.transfer not in {"auto", "obstore", "boto3"}:
            raise InvalidInput(f"There is no transfer {self.transfer!r}.", "Use 'auto', 'obstore' or 'boto3'.")


def check_endpoint(url: str) -> None:
    """Raise InvalidInput for an endpoint that holds credentials, which would be logged; the error does not quote it."""
    if "@" in url.partition("?")[0]:
        raise InvalidInput(
            "The S3 endpoint holds a user or a secret before an '@'.",
            "Give the credentials by the environment, a profile or a connection, and the endpoint without them.",
        )


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
    def ca_bundle(self) -> str | None:
        """Return the path of the certificates to trust, None for the usual ones; boto3's own chain included."""
        return self.options.ca_bundle or self.session._session.get_config_variable("ca_bundle") or None

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
    _check_bundle(options)
    _keep_credentials_out_of_logs()
    try:
        core = botocore.session.Session(profile=options.profile)
        # Parsing boto3's description of S3 takes longer than most requests, so it is shared by all sessions.
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
            s3={"addressing_style": _addressing_style(options, session)},
            retries={"mode": "standard", "total_max_attempts": options.max_retries + 1},
            connect_timeout=options.connect_timeout_seconds,
            read_timeout=options.read_timeout_seconds,
            max_pool_connections=MAX_CONNECTIONS,
            # Digests are sent and compared explicitly; other servers do not know boto3's default checksums.
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
    check_endpoint(str(client.meta.endpoint_url))
    return Connection(address, options, session, client)


def _keep_credentials_out_of_logs() -> None:
    """Keep botocore's requests, whose headers hold the session token, out of logs unless its logger has a level."""
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _check_bundle(options: S3Options) -> None:
    if options.verify_tls and options.ca_bundle and not os.access(options.ca_bundle, os.R_OK):
        raise InvalidInput(
            f"The CA bundle {options.ca_bundle!r} cannot be read.", "Check its path and its rights, or leave it out."
        )


@functools.cache
def _descriptions() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


def _addressing_style(options: S3Options, session: Any) -> str:
    if _path_style(options, session):
        return "path"
    # "auto" of boto3 is path style with an endpoint_url.
    return "auto" if options.path_style is None else "virtual"


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
