"""The page at ``/`` in Chromium: with a mouse and a picture, by keyboard alone, as a screen reader has it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.browser import EXECUTABLE, Browser, browser
from gateway.gateways import KEY, PICTURES, Running, gateway, picture_version, png, run
from gateway.model_servers import Replica, version

needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="Chromium is not installed")
BOXES = {
    "processor": {"name": "images", "options": {"input": "x", "multiple_of": 4, "scale": 1 / 255}, "in_pool": False},
    "postprocessor": {"name": "boxes", "options": {"threshold": 0.5}},
}
TEXT = {"processor": {"name": "text", "options": {"input": "x", "encode": "strings", "lowercase": False}}}


def east(arrays: Any) -> Any:
    """Return one box of 8 by 4 pixels in the middle of the picture."""
    import numpy as np

    rows, height, width, _ = arrays["x"].shape
    maps = np.zeros((rows, height // 4, width // 4, 5), np.float32)
    maps[:, height // 8, width // 8] = (0.9, 2, 4, 2, 4)
    return {"y": maps}


def in_browser(
    act: Callable[[Running, Browser], Awaitable[None]], *replicas: Replica, problems: int = 0, **options: Any
) -> None:
    """Run `act` on a gateway and a browser; `problems` errors in the console are expected."""

    async def whole() -> None:
        async with gateway(*replicas, **options) as g, browser() as b:
            await act(g, b)
            assert len(b.problems) == problems, b.problems
            outside = [url for url in b.requested if not url.removeprefix("blob:").startswith(g.url)]
            assert not outside

    asyncio.run(whole())


def digits() -> Replica:
    return Replica({3: picture_version()}, {"stable": 3})


@needs_chromium
def test_a_picture_is_chosen_and_the_answer_is_shown_with_its_version_and_times(tmp_path: Path) -> None:
    picture = tmp_path / "bright.png"
    picture.write_bytes(png(255))

    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")
        assert "Version 3 is stable" in await b.text("#about")
        await b.choose_file("#file", picture)
        await b.until("!document.querySelector('#preview').hidden && document.querySelector('#preview').naturalWidth")
        await b.run("document.querySelector('#send').click()")
        await b.until("!document.querySelector('#result').hidden")
        assert await b.text("#status") == "one"
        facts = await b.text("#facts")
        assert "Version\n3" in facts
        assert "Label\nstable" in facts
        assert "100.0 %" in await b.text("#shown")
        assert "predict" in await b.text("#stages")
        widths = await b.run("[...document.querySelectorAll('.bar span')].map((bar) => bar.style.cssText)")
        assert "100%" in widths[0]

    in_browser(act, digits(), model=PICTURES)


@needs_chromium
def test_a_picture_can_be_dropped(tmp_path: Path) -> None:
    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")
        await b.run(
            "fetch('static/icon.svg').then((got) => got.blob()).then(async () => {"
            "const canvas = document.createElement('canvas'); canvas.width = canvas.height = 8;"
            "const draw = canvas.getContext('2d'); draw.fillStyle = '#fff'; draw.fillRect(0, 0, 8, 8);"
            "const blob = await new Promise((done) => canvas.toBlob(done));"
            "const data = new DataTransfer(); data.items.add(new File([blob], 'drawn.png', {type: 'image/png'}));"
            "document.querySelector('#drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); })"
        )
        await b.until("document.querySelector('#preview').alt.includes('drawn.png')")
        await b.run("document.querySelector('#send').click()")
        await b.until("document.querySelector('#status').textContent === 'one'")

    in_browser(act, digits(), model=PICTURES)


@needs_chromium
def test_boxes_are_drawn_on_the_picture(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    picture.write_bytes(png(128, size=32))
    replica = Replica({1: version((None, None, None, 3), function=east, gives=(None, None, None, 5))}, {"stable": 1})

    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")
        await b.choose_file("#file", picture)
        await b.run("document.querySelector('#send').click()")
        await b.until("!document.querySelector('#result').hidden")
        assert await b.text("#status") == "1 box"
        drawn = await b.run("['x', 'y', 'width', 'height'].map((a) => document.querySelector('rect').getAttribute(a))")
        assert drawn == ["12", "14", "8", "4"]

    in_browser(act, replica, model=BOXES)


@needs_chromium
def test_everything_can_be_done_by_keyboard() -> None:
    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")
        order = []
        for _ in range(6):
            await b.press("Tab", code=9)
            order.append(await b.focused())
        # Two links, the model, the chosen radio button (its value), the field for the text, the button.
        assert order == ["A", "A", "model", "text", "text", "send"]
        await b.run("document.querySelector('#text').focus()")
        await b.type("Grüße")
        await b.press("Enter", code=13, modifiers=2)
        await b.until("!document.querySelector('#result').hidden")
        assert await b.text("#status") == "Grüße"

    in_browser(act, Replica({1: version((None,), dtype="DT_STRING")}, {"stable": 1}), model=TEXT)


@needs_chromium
def test_a_screen_reader_has_a_name_for_everything_and_hears_the_answer() -> None:
    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")
        spoken = await b.spoken()
        for expected in (
            ("heading", "Model gateway"),
            ("form", "Ask a model"),
            ("region", "Answer"),
            ("combobox", "Model"),
            ("group", "What to send"),
            ("radio", "Picture"),
            ("textbox", "or its address"),
            ("button", "Ask"),
        ):
            assert expected in spoken, spoken
        controls = {"button", "textbox", "combobox", "radio", "link"}
        assert not [role for role, name in spoken if role in controls and not name.strip()]
        assert "status" in {role for role, _ in spoken}
        assert await b.run("document.documentElement.lang") == "en"

    in_browser(act, digits(), model=PICTURES)


@needs_chromium
def test_json_can_be_typed_as_an_item_and_as_a_whole_body_and_problems_are_told() -> None:
    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').value === 'm'")

        async def ask(text: str) -> str:
            await b.run(
                "document.querySelector('#status').textContent = 'before';"
                f"document.querySelector('#json').value = {text!r}; document.querySelector('#send').click()"
            )
            return str(
                await b.until(
                    "!/before|Asking/.test(document.querySelector('#status').textContent)"
                    " && document.querySelector('#status').textContent"
                )
            )

        assert await ask("4.5") == "4.5"
        assert not await b.run("document.querySelector('#json-answer').open")
        assert await ask('{"items": [1, 2]}') == "Answered."
        # There is nothing else to see, so it is open.
        assert '"results": [\n  1,\n  2\n ]' in await b.text("#raw")
        assert "This is not JSON" in await ask("{")
        told = await ask('"x"')
        assert "Item 0" in told
        assert re.search(r"Request [0-9a-f]{16,}$", told)
        assert await b.run("document.querySelector('#result').hidden")
        # The long number must not push the page wider than a telephone is.
        await b.visit(g.url, width=340, height=740)
        await b.until("document.querySelector('#model').value === 'm'")
        await ask('"x"')
        assert await b.run("document.documentElement.scrollWidth <= 340")
        await ask("5")
        assert await b.run("document.documentElement.scrollWidth <= 340")

    in_browser(act, model={}, problems=2)  # Chromium logs the status 422


@needs_chromium
def test_a_key_is_asked_for_where_one_is_needed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"me:{KEY}\n")

    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url)
        await b.until("document.querySelector('#model').textContent.includes('Enter a key')")
        await b.run("document.querySelector('#key').focus()")
        await b.type(KEY)
        await b.press("Tab", code=9)
        await b.until("document.querySelector('#model').value === 'm'")
        await b.run("document.querySelector('#json').value = '1'; document.querySelector('#send').click()")
        await b.until("document.querySelector('#status').textContent === '1'")

    in_browser(act, model={}, auth={"keys_file": str(keys)})


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_the_text_can_be_read_in_light_and_dark_and_on_a_telephone(dark: bool) -> None:
    contrast = """(() => {
      const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((part) => part / 255)
          .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : colour;
      };
      const found = [];
      for (const element of document.querySelectorAll('h1, h2, p, label, a, button, .hint, legend, select')) {
        if (!element.offsetParent || !element.innerText.trim() || element.matches('.skip')) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.innerText]);
      }
      return found.sort((one, other) => one[0] - other[0]);
    })()"""

    async def act(g: Running, b: Browser) -> None:
        await b.visit(g.url, dark=dark, width=360, height=740)
        await b.until("document.querySelector('#model').value === 'm'")
        found = await b.run(contrast)
        assert len(found) > 8
        assert found[0][0] >= 4.5, found[0]
        assert await b.run("document.documentElement.scrollWidth <= 360")
        ground = await b.run("getComputedStyle(document.body).backgroundColor")
        assert (int(ground.split("(")[1].split(",")[0]) < 64) is dark

    in_browser(act, digits(), model=PICTURES)


def test_the_page_allows_nothing_from_outside_and_nothing_inline() -> None:
    async def ask(g: Running) -> None:
        page = await g.ask("/")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        text = page.body.decode()
        assert "style=" not in text
        assert "onclick" not in text
        assert "<script>" not in text
        for kind in ("text/css", "text/javascript", "image/svg+xml"):
            name = {"text/css": "page.css", "text/javascript": "page.js", "image/svg+xml": "icon.svg"}[kind]
            got = await g.ask(f"/static/{name}")
            assert got.headers["Content-Type"].startswith(kind)
            assert got.headers["X-Content-Type-Options"] == "nosniff"

    run(ask, model={})


def test_the_page_can_be_left_out() -> None:
    assert run(lambda g: g.ask("/"), model={}, page={"enabled": False}).status == 404
