"""Helpers for the tests of the Rooms view: a browser in a room, and the actions of a user."""

import base64
import re
from typing import Any

from playwright.async_api import Page, expect

from tests.browser.chromium import console
from tests.support.running import Server


def room(server: Server, name: str, fragment: str = "#room/harbour", url: str = "", **options: Any) -> Any:
    """Opens this room in a new browser that has a token of this user."""
    token = server.token(name, "images chat admin")
    return console(server, url, token=token, fragment=fragment, **options)


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def joined(page: Page) -> None:
    """Expects exactly these messages. With none, the view may not be drawn yet."""
    await expect(page.locator("#before")).to_have_text(re.compile(r"^(?!Loading)."))


async def go(page: Page, fragment: str, name: str) -> None:
    """Opens the place with this name. The page gets the new URL a moment later."""
    await page.evaluate("(fragment) => { location.hash = fragment; }", fragment)
    await expect(page.locator("#talk-name")).to_have_text(name)
    await expect(page.locator("#talk")).to_be_visible()


def texts(page: Page) -> Any:
    return page.locator("#messages .text")


async def drop(page: Page, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    script = """([text, name, type]) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    await page.evaluate(script, [base64.b64encode(data).decode(), name, kind])


async def paste(page: Page, data: bytes) -> None:
    script = """(text) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], "pasted.jpg", { type: "image/jpeg" }));
        const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
        document.querySelector("#text").dispatchEvent(event);
    }"""
    await page.evaluate(script, base64.b64encode(data).decode())
