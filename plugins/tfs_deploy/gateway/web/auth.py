"""API keys (``Authorization: Bearer KEY`` or ``X-API-Key: KEY``), and CORS for web pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path

from tornado.httputil import HTTPHeaders

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import Auth, Cors
from tfs_deploy.gateway.web.message import REQUEST_ID_HEADER, HeadedProblem, Reply

KEY_HEADER = "X-API-Key"
# 96 bits in base64; a shorter key can be guessed.
MIN_KEY_LENGTH = 16
# Without `:`, which separates the name. Printable ASCII passes every proxy in a header.
_KEY = re.compile(rf"[!-~]{{{MIN_KEY_LENGTH},512}}")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MAX_KEYS_BYTES = 1 << 20
_SENT = ("Authorization", "Content-Type", KEY_HEADER, REQUEST_ID_HEADER, "X-Request-Timeout")
EXPOSED = ("X-Model-Name", "X-Model-Version", "X-Model-Label", REQUEST_ID_HEADER, "Retry-After", "Server-Timing")


class Keys:
    """The digests of all API keys, with the client name of each; without any, requests need no key."""

    def __init__(self, digests: Mapping[bytes, str]) -> None:
        self._key_digests = dict(digests)

    @property
    def required(self) -> bool:
        """Return whether a request needs a key."""
        return bool(self._key_digests)

    def client(self, headers: HTTPHeaders) -> str:
        """Return the client name of the key in `headers`, empty where no key is needed; raise Problem (401)."""
        if not self._key_digests:
            return ""
        given = _sent_key(headers)
        if not given:
            raise _unauthorized(
                "This gateway needs a key: send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'."
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        # Every key is compared in constant time, so that the duration reveals nothing.
        matches = [name for known, name in self._key_digests.items() if hmac.compare_digest(known, digest)]
        if not matches:
            raise _unauthorized("The API key is unknown; check it, or ask the operator of this gateway for one.")
        return matches[0]


def read_keys(auth: Auth, environ: Mapping[str, str] = os.environ) -> Keys:
    """Return the keys that `auth` configures; raise InvalidInput, which never quotes a key."""
    texts = []
    if auth.keys_file:
        texts.append((f"The keys file {auth.keys_file}", _read_file(auth.keys_file)))
    if auth.keys_env:
        if not environ.get(auth.keys_env, "").strip():
            raise InvalidInput(
                f"The environment variable {auth.keys_env} of `auth.keys_env` is not set.", "Set it to the keys."
            )
        texts.append((f"The environment variable {auth.keys_env}", environ[auth.keys_env].replace(",", "\n")))
    digests: dict[bytes, str] = {}
    for where, text in texts:
        digests.update(_key_digests(where, text))
    return Keys(digests)


def _key_digests(where: str, text: str) -> dict[bytes, str]:
    digests: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, separator, key = entry.rpartition(":")
        name, key = (name.strip(), key.strip()) if separator else (f"key-{number}", entry)
        if not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
            raise InvalidInput(
                f"{where} has an invalid entry in line {number}.",
                f"Write NAME:KEY or KEY, the key {MIN_KEY_LENGTH} or more printable characters without ':'.",
            )
        digests[hashlib.sha256(key.encode()).digest()] = name
    if not digests:
        raise InvalidInput(f"{where} has no keys.", "Write one NAME:KEY per line.")
    return digests


def _read_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_KEYS_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(f"The keys file {path} cannot be read: {reason}.", "Correct `auth.keys_file`.") from error
    if len(data) > _MAX_KEYS_BYTES:  # truncated, its last key would be wrong and later ones missing
        raise InvalidInput(f"The keys file {path} has more than {_MAX_KEYS_BYTES} bytes.", "Correct `auth.keys_file`.")
    return text


def _sent_key(headers: HTTPHeaders) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get(KEY_HEADER, "").strip()


def _unauthorized(detail: str) -> HeadedProblem:
    return HeadedProblem(
        HTTPStatus.UNAUTHORIZED, "Unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="tfs-deploy"'}
    )


class CrossOrigin:
    """Makes the CORS headers (Fetch standard); `more_headers` are further request headers that a page may send."""

    def __init__(self, config: Cors, more_headers: Collection[str] = ()) -> None:
        self._origins = frozenset(config.origins)
        self._max_age = str(config.max_age_seconds)
        self._sent = ", ".join((*_SENT, *sorted(more_headers)))

    def preflight(self, headers: HTTPHeaders, allowed: Collection[str]) -> Reply | None:
        """Return the reply to a browser's preflight OPTIONS request; None where the request is no preflight."""
        if not self._allows(headers) or "Access-Control-Request-Method" not in headers:
            return None
        answer = {
            "Access-Control-Allow-Methods": ", ".join(allowed),
            "Access-Control-Allow-Headers": self._sent,
            "Access-Control-Max-Age": self._max_age,
        }
        return Reply(204, b"", answer)

    def add(self, answer: HTTPHeaders, headers: HTTPHeaders) -> None:
        """Add the CORS headers to those of a reply (`answer`)."""
        if not self._origins:
            return
        if "*" not in self._origins:
            answer.add("Vary", "Origin")
        if self._allows(headers):
            # No credentials mode: the page sends the key itself, and the gateway uses no cookies.
            answer["Access-Control-Allow-Origin"] = "*" if "*" in self._origins else headers["Origin"]
            answer["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)

    def _allows(self, headers: HTTPHeaders) -> bool:
        origin = headers.get("Origin")
        return origin is not None and ("*" in self._origins or origin in self._origins)
