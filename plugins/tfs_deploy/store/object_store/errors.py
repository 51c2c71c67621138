"""Translation of the errors of boto3 and obstore into those of tfs_deploy, with a cause and a remedy.

Messages quote the server's error code, the bucket and the address, never a request or a header: those may hold keys.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from tfs_deploy.errors import StoreError, TFSDeployError, Unreachable
from tfs_deploy.store.download.state import NoPieces
from tfs_deploy.store.object_store.address import S3Address

_RIGHTS = (
    "Give these credentials s3:ListBucket and s3:ListBucketMultipartUploads on the bucket, and s3:GetObject, "
    "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on what is below the prefix."
)
_CREDENTIALS = "Check the access key's id and secret, or the profile, that this process uses."
_EXPIRED = "Get new temporary credentials, or use a role that renews them, and run the same step again."
_REGION = "Set the region of the bucket (AWS_REGION, or the connection's region) and run the same step again."
_LATER = "Check the store's server and the network, then run the same step again: it continues from there."

# Code -> (cause, remedy). Source of the codes: Amazon S3 API reference, "Error responses".
_PERMANENT: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("the bucket does not exist", "Create the bucket, or correct its name in the store's address."),
    "InvalidBucketName": ("the bucket's name is not usable", "Correct the bucket's name in the store's address."),
    "AccessDenied": ("access is denied", _RIGHTS),
    "AllAccessDisabled": ("access is disabled", _RIGHTS),
    "AccountProblem": ("the account has a problem", "Ask the store's operator."),
    "Forbidden": ("access is denied", _RIGHTS),
    "403": ("access is denied", _RIGHTS),
    "InvalidAccessKeyId": ("the access key is not known there", _CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret does not belong to the access key", _CREDENTIALS),
    "UnauthorizedAccess": ("the credentials are not accepted", _CREDENTIALS),
    "401": ("the credentials are not accepted", _CREDENTIALS),
    "InvalidToken": ("the session token is not accepted", _EXPIRED),
    "ExpiredToken": ("the session token has expired", _EXPIRED),
    "ExpiredTokenException": ("the session token has expired", _EXPIRED),
    "TokenRefreshRequired": ("the session token must be renewed", _EXPIRED),
    "RequestExpired": ("the request has expired", _EXPIRED),
    "RequestTimeTooSkewed": (
        "this machine's clock and the server's are too far apart",
        "Set this machine's clock (for example by NTP) and run the same step again.",
    ),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "TemporaryRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "IncorrectEndpoint": ("the bucket is in another region", _REGION),
    "301": ("the bucket is in another region", _REGION),
    "307": ("the bucket is in another region", _REGION),
    "400": ("the server refused the request", "Check the region, the endpoint and whether a session token expired."),
    "KeyTooLongError": ("an object's name is too long", "Use a shorter prefix or model name."),
    "EntityTooLarge": ("an object is too large for this server", "Export the model with smaller shards."),
    "QuotaExceeded": ("the store is full", "Free some space or raise the quota, then run the same step again."),
    "XMinioStorageFull": ("the store is full", "Free some space, then run the same step again."),
    "507": ("the store is full", "Free some space, then run the same step again."),
    "InvalidObjectState": ("an object is archived", "Restore it, and keep archiving rules off the store's prefix."),
    "MethodNotAllowed": ("the server does not allow this request", "Use a store with the whole S3 API."),
    "NotImplemented": ("the server does not know this request", "Use a store with the whole S3 API."),
    "501": ("the server does not know this request", "Use a store with the whole S3 API."),
}
_TRANSIENT: dict[str, str] = {
    "SlowDown": "the server asks to slow down",
    "SlowDownRead": "the server asks to slow down",
    "SlowDownWrite": "the server asks to slow down",
    "TooManyRequests": "the server asks to slow down",
    "Throttling": "the server asks to slow down",
    "ThrottlingException": "the server asks to slow down",
    "RequestLimitExceeded": "the server asks to slow down",
    "429": "the server asks to slow down",
    "InternalError": "the server has an internal error",
    "InternalServerError": "the server has an internal error",
    "500": "the server has an internal error",
    "502": "a gateway before the server has no answer from it",
    "ServiceUnavailable": "the server is not available",
    "503": "the server is not available",
    "504": "a gateway before the server has no answer from it",
    "RequestTimeout": "the server got the request too slowly",
    "408": "the server got the request too slowly",
    "BadDigest": "bytes were changed on the way",
    "InvalidDigest": "bytes were changed on the way",
    "XAmzContentSHA256Mismatch": "bytes were changed on the way",
    "XAmzContentChecksumMismatch": "bytes were changed on the way",
    "IncompleteBody": "a part of the request was lost on the way",
    "NoSuchUpload": "the upload was dropped meanwhile, for example by another publish of the same bytes",
    "OperationAborted": "another request to the same object was going on",
    "ConditionalRequestConflict": "another request to the same object was going on",
    "409": "another request to the same object was going on",
}
_CONFLICTS = frozenset({"OperationAborted", "ConditionalRequestConflict", "409"})
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,80})\s*</Code>")
_SHORT_CODE = re.compile(r"[A-Za-z0-9.]{1,80}")
_STATUS = re.compile(r"status code: ([0-9]{3})")


class MissingObject(Exception):
    """The requested object does not exist; the caller turns this into NotFound or CorruptModel."""


class PreconditionFailed(Exception):
    """A conditional write was refused, because the object has another state than the expected one.

    ``repeated``: boto3 sent the request more than once, so the state may be that of its own first request.
    """

    def __init__(self, doing: str, *, repeated: bool = False) -> None:
        super().__init__(doing)
        self.repeated = repeated


class Interrupted(Unreachable):
    """An answer was cut off, or the request collided with another one; it may be sent again at once."""


@contextlib.contextmanager
def reporting(doing: str, address: S3Address, *, body: bool = False) -> Iterator[None]:
    """Turn an error of boto3 or obstore in the block into ours: "The S3 store <address> could not <doing>: <reason>.".

    `body` says that the block reads the body of an answer, which the libraries do not repeat themselves.
    """
    try:
        yield
    except (TFSDeployError, MissingObject, NoPieces, PreconditionFailed):
        raise
    except Exception as error:
        translated = translate(error, doing, address)
        if translated is None:
            raise
        if body and isinstance(translated, Unreachable):
            translated = Interrupted(translated.cause, translated.remedy)
        # Not chained with `from`: a traceback that prints the original may print the request.
        raise translated from None


def translate(error: Exception, doing: str, address: S3Address) -> Exception | None:
    """Return our error for one of boto3, obstore or the network; None if `error` is none of these."""
    code = code_of(error)
    if code is not None:
        return _of_code(code, doing, address, error)
    return _of_kind(error, doing, address)


def code_of(error: Exception) -> str | None:
    """Return the S3 error code, or the HTTP status where there is none; None if the server did not answer."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        code = str(response["Error"].get("Code") or response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return code if _SHORT_CODE.fullmatch(code) else "unknown"
    if type(error).__module__.startswith("obstore") or isinstance(error, FileNotFoundError):
        text = str(error)
        if "LOCATION" in text:
            return "PermanentRedirect"  # object_store follows no redirect that names no address
        match = _CODE.search(text) or _STATUS.search(text)
        return match.group(1) if match else None
    return None


def _of_code(code: str, doing: str, address: S3Address, error: Exception) -> Exception:
    if code in {"NoSuchKey", "404", "NotFound", "NoSuchVersion", "InvalidRange", "416"}:
        return MissingObject(doing)
    if code in {"PreconditionFailed", "412"}:
        response: Any = getattr(error, "response", {})
        return PreconditionFailed(doing, repeated=response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0)
    where = f"The S3 store {address.uri!r} could not {doing}"
    if code in _TRANSIENT:
        kind = Interrupted if code in _CONFLICTS else Unreachable
        return kind(f"{where}: {_TRANSIENT[code]} ({code}).", _LATER)
    if code in _PERMANENT:
        happened, remedy = _PERMANENT[code]
        region = _region_of(error)
        if region and remedy == _REGION:
            happened = f"{happened}, {region}"
        return StoreError(f"{where}: {happened} ({code}).", remedy)
    if code.isdigit() and code.startswith("5"):
        return Unreachable(f"{where}: the server answered with status {code}.", _LATER)
    return StoreError(f"{where}: the server answered {code}.", "Look that code up in the server's documentation.")


def _region_of(error: Exception) -> str:
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(headers.get("x-amz-bucket-region") or response["Error"].get("Region") or "")
    return region if re.fullmatch(r"[a-z0-9\-]{1,40}", region) else ""


def _of_kind(error: Exception, doing: str, address: S3Address) -> Exception | None:
    from botocore import exceptions

    where = f"The S3 store {address.uri!r} could not {doing}"
    if isinstance(error, RecursionError):
        # botocore follows redirects to the bucket's region recursively.
        return StoreError(
            f"{where}: the server redirects every request.",
            "Check the endpoint, for example http:// where the server wants https://, and the region.",
        )
    if isinstance(error, exceptions.SSLError) and "certificate" in str(error).lower():
        return _untrusted(where)
    credential_errors = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
    )
    if isinstance(error, credential_errors):
        return StoreError(
            f"{where}: there are no usable credentials ({type(error).__name__}).",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a role, or an Airflow connection.",
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError):
        return Unreachable(f"{where}: no whole answer came from the server ({type(error).__name__}).", _LATER)
    if isinstance(error, exceptions.BotoCoreError):
        return StoreError(
            f"{where}: boto3 refuses the request ({type(error).__name__}).", "Check the store's address and options."
        )
    return _of_network(error, where)


def _of_network(error: Exception, where: str) -> Exception | None:
    module = type(error).__module__.split(".")[0]
    if module == "urllib3" or isinstance(error, ConnectionError | TimeoutError):
        return Unreachable(f"{where}: no whole answer came from the server ({type(error).__name__}).", _LATER)
    if module == "obstore" and "certificate" in str(error).lower():
        return _untrusted(where)
    if module == "obstore":
        return Unreachable(f"{where}: no whole answer came from the server ({_reason(str(error))}).", _LATER)
    return None


def _untrusted(where: str) -> StoreError:
    return StoreError(
        f"{where}: the server's TLS certificate is not trusted.",
        "Name the CA bundle that signed it (AWS_CA_BUNDLE, or ca_bundle).",
    )


def _reason(text: str) -> str:
    """Return a known reason from object_store's message; the whole message may quote a request and is not repeated."""
    for reason in ("Connection refused", "connection reset", "timed out", "dns error", "incomplete message"):
        if reason.lower() in text.lower():
            return reason
    return "connection lost"
