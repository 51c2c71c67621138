"""How to reach an S3-compatible store; whatever is left out comes from boto3's own chain and the AWS_* variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tfs_deploy.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class S3Options:
    """Connection settings; the secrets in it appear in no representation, log line or error.

    ``path_style`` is what most servers but Amazon's want, so it is the default with an ``endpoint_url``.
    ``transfer`` chooses what moves the bytes: obstore where it is installed, or boto3.
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
            raise InvalidInput(f"{self.transfer!r} moves no bytes.", "Use 'auto', 'obstore' or 'boto3'.")


def check_endpoint(url: str) -> None:
    """Raise InvalidInput, without repeating it, for an endpoint that holds credentials: it is noted and logged."""
    if "@" in url.partition("?")[0]:
        raise InvalidInput(
            "The S3 endpoint holds a user or a secret before an '@'.",
            "Give the credentials by the environment, a profile or a connection, and the endpoint without them.",
        )
