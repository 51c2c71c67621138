"""Whole gateways on loopback, in front of the model servers of `model_servers`, and a client to ask them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from gateway.model_servers import MODEL, Replica, version
from gateway.waiting import LONG, ended
from tfs_deploy.gateway.config_file import config_from
from tfs_deploy.gateway.main import Gateway
from tfs_deploy.gateway.problem import CONTENT_TYPE

KEY = "a-key-of-enough-letters"
HEALTH = {"interval_seconds": 0.05, "timeout_seconds": 10.0, "max_age_seconds": 10.0}
CLASSES = ("zero", "one", "two")


def sums(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores of three classes, the more certain the brighter the picture is."""
    brightness = arrays["x"].reshape(len(arrays["x"]), -1).mean(axis=1)
    rest = (1 - brightness) / 2
    return {"y": np.stack([rest, brightness, rest], axis=1).astype(np.float32)}


def picture_version() -> Any:
    """Return a version that classifies pictures `[n, 4, 4]` of 0 to 1."""
    return version((None, 4, 4), function=sums, gives=(None, 3))


PICTURES = {
    "processor": {
        "name": "images",
        "options": {"input": "x", "size": [4, 4], "mode": "L", "layout": "HW", "scale": 1 / 255},
        "in_pool": False,
    },
    "postprocessor": {"name": "classification", "options": {"labels": list(CLASSES), "top": 3}},
}


@dataclass(frozen=True)
class Got:
    """One answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A gateway that runs, and what it logged."""

    def __init__(self, gateway: Gateway, log: io.BytesIO) -> None:
        self.gateway = gateway
        self.log = log
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=200)

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Got:
        """Ask; `body` that is not bytes is sent as JSON; ``X_Api_Key=…`` is the header ``X-Api-Key``."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        request = HTTPRequest(
            self.url + path,
            method=method,
            body=body,
            headers=sent,
            request_timeout=LONG,
            connect_timeout=LONG,
            allow_nonstandard_methods=True,
            follow_redirects=False,
        )
        answer = await self._client.fetch(request, raise_error=False)
        if answer.code == 599:
            raise AssertionError(f"no answer: {answer.error}")
        return Got(answer.code, answer.headers, answer.body or b"")

    async def predict(self, body: Any, model: str = MODEL, **headers: str) -> Got:
        """Ask a model."""
        return await self.ask(f"/v1/models/{model}", "POST", body, **headers)

    async def raw(
        self, data: bytes, rest: bytes = b"", *, late: bool = False, enough: Callable[[bytes], bool] = lambda got: False
    ) -> bytes:
        """Send bytes as they are; return what comes until it is `enough` or the gateway hangs up.

        `late` sends the `rest` after the first bytes of the answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data if late else data + rest)
            await writer.drain()
            got = b""
            if late:
                got = await ended(reader.read(65536))
                writer.write(rest)
            with contextlib.suppress(ConnectionError):
                while not enough(got) and (piece := await ended(reader.read(65536), f"more than {got!r}")):
                    got += piece
            return got
        finally:
            writer.close()

    def asked(self) -> dict[str, bool]:
        """Return the model servers of all models, and whether each is asked at the moment."""
        return {
            target: asked
            for endpoint in self.gateway._endpoints
            for target, asked in endpoint.upstream.replicas().items()
        }

    async def ready(self) -> bool:
        """Tell whether /readyz says so."""
        return (await self.ask("/readyz")).status == 200

    def lines(self) -> list[dict[str, Any]]:
        """Return the access log after the end."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def settings(*targets: str, model: Mapping[str, Any] | None = None, **sections: Any) -> Any:
    """Return a configuration of the model ``m`` (and of `models`) on `targets`, on a free port."""
    models = sections.pop("models", {})
    if model is not None or not models:
        models = {MODEL: dict(model or {}), **models}
    listen = {"port": 0} | sections.pop("listen", {})
    health = HEALTH | sections.pop("health", {})
    limits = {"timeout_seconds": LONG} | sections.pop("limits", {})
    given = {"replicas": list(targets), "models": models, "health": health, "listen": listen, "limits": limits}
    return config_from({**given, **sections})


@contextlib.asynccontextmanager
async def gateway(
    *replicas: Replica, model: Mapping[str, Any] | None = None, fetcher: Any = None, **sections: Any
) -> AsyncIterator[Running]:
    """Start `replicas` (one, if none is given) and a gateway in front of them; drain at the end."""
    replicas = replicas or (Replica(),)
    for replica in replicas:
        await replica.start()
    log = io.BytesIO()
    made = Gateway(
        settings(*(replica.target for replica in replicas), model=model, **sections), log=log, fetcher=fetcher
    )
    await made.start()
    try:
        yield Running(made, log)
    finally:
        await ended(made.stop(quiet=0.0))
        for replica in replicas:
            await replica.stop()


def form(*parts: tuple[str, str | None, bytes], boundary: str = "frontier") -> tuple[bytes, str]:
    """Return a multipart body of (field, file name, content) and its Content-Type."""
    body = b""
    for field, name, content in parts:
        file = f'; filename="{name}"' if name is not None else ""
        kind = "Content-Type: application/octet-stream\r\n" if name is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{file}\r\n{kind}\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def png(value: int = 255, size: int = 8) -> bytes:
    """Return a grey picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (size, size), value).save(stream, "PNG")
    return stream.getvalue()


Ask = Callable[[Running], Awaitable[Any]]


def run(ask: Ask, *replicas: Replica, model: Any = None, **sections: Any) -> Any:
    """Return what `ask` returns about a gateway."""

    async def whole() -> Any:
        async with gateway(*replicas, model=model, **sections) as running:
            return await ask(running)

    return asyncio.run(whole())


def is_problem(got: Got, status: int) -> bool:
    """Tell whether `got` is a whole problem document with `status`."""
    document = got.json
    assert got.status == status, (got.status, document)
    assert got.headers["Content-Type"] == CONTENT_TYPE
    assert document["status"] == status
    assert document["request_id"] == got.headers["X-Request-Id"]
    detail = document["detail"]
    assert detail[0].isupper()
    assert detail.endswith(".")
    assert "Traceback" not in detail
    return True
