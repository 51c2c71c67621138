"""Chromium without a window, driven over its DevTools protocol by Tornado's WebSocket client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)
_START_SECONDS = 120.0
_SECONDS = 60.0


class Browser:
    """One tab; `problems` are errors that its console told."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.problems: list[str] = []
        self.requested: list[str] = []
        self._socket = socket
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._session = ""
        self._reader = asyncio.ensure_future(self._read())

    async def open_tab(self) -> None:
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log", "Network", "Accessibility"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **parameters: Any) -> Any:
        """Return the result of one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        waiting = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.write_message(json.dumps(message))
        return await asyncio.wait_for(waiting, _SECONDS)

    async def visit(self, url: str, *, width: int = 1100, height: int = 760, dark: bool = False) -> None:
        """Open `url` in a window of this size."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = "dark" if dark else "light"
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """Return the value of JavaScript."""
        got = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise AssertionError(got["exceptionDetails"].get("exception", got["exceptionDetails"]))
        return got["result"].get("value")

    async def until(self, script: str, seconds: float = _SECONDS) -> Any:
        """Return the first value of `script` that is true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            value = await self.run(script)
            if value:
                return value
            if loop.time() > end:
                raise AssertionError(f"not within {seconds:g} s: {script}; the page says: {await self.text('main')}")
            await asyncio.sleep(0.03)

    async def text(self, selector: str) -> str:
        """Return what one element shows."""
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a field."""
        root = await self.send("DOM.getDocument")
        node = await self.send("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        await self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def press(self, key: str, *, text: str = "", code: int = 0, modifiers: int = 0) -> None:
        """Press one key where the focus is."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        """Type where the focus is."""
        await self.send("Input.insertText", text=text)

    async def focused(self) -> str:
        """Return the id, or else the kind, of what has the focus."""
        return str(
            await self.run(
                "document.activeElement.id || document.activeElement.value || document.activeElement.tagName"
            )
        )

    async def spoken(self) -> list[tuple[str, str]]:
        """Return role and name of everything that a screen reader reads."""
        tree = await self.send("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node.get("ignored") and "role" in node
        ]

    async def screenshot(self, path: Path) -> None:
        """Save the whole page."""
        got = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))

    def close(self) -> None:
        self._reader.cancel()
        self._socket.close()

    async def _read(self) -> None:
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                waiting = self._waiting.pop(message["id"])
                if not waiting.done():
                    if "error" in message:
                        waiting.set_exception(AssertionError(message["error"]))
                    else:
                        waiting.set_result(message["result"])
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium with a profile of its own, and end it."""
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            *_FLAGS,
            f"--user-data-dir={profile}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"HOME": profile, "PATH": "/usr/bin:/bin"},
        )
        try:
            address = await _address(Path(profile) / "DevToolsActivePort", lambda: process.returncode is not None)
            made = Browser(await websocket_connect(address, max_message_size=64 << 20))
            await made.open_tab()
            yield made
            made.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10.0)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()


async def _address(file: Path, ended: Callable[[], bool]) -> str:
    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    while True:
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if ended() or loop.time() > end:
            raise AssertionError("Chromium did not start")
        await asyncio.sleep(0.05)
