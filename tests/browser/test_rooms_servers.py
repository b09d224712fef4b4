"""Two servers on one Redis, in Chromium: a user who was offline finds on the other server all messages and pictures
since.
"""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.chromium import SCREENSHOTS
from tests.browser.rooms import drop, joined, room, say, texts
from tests.support.pictures import encoded, tall
from tests.support.redis import Redis, url_in
from tests.support.running import Start

pytestmark = pytest.mark.chaos


async def test_a_user_who_returns_to_another_server_finds_everything(
    redis: Redis, start: Start, tmp_path: Path
) -> None:
    shared = {"events": url_in(tmp_path), "uploads": f"file:{tmp_path}/uploads", "media": f"file:{tmp_path}/media"}
    one, other = start(**shared), start(**shared)
    async with room(one, "alice") as alice:
        async with room(one, "bob") as bob:
            await joined(bob)
            await say(bob, "back soon")
            await expect(texts(alice)).to_have_text(["back soon"])
        await expect(alice.locator("#present li")).to_have_text(["you"])
        await say(alice, "look at this")
        await expect(alice.locator("#messages li.own .sign")).to_have_count(1)
        await drop(alice, encoded(tall(1600), ".jpg", 85))
        await expect(alice.locator("#attached li[data-state=done] img")).to_have_count(1)
        await say(alice, "the north pier")
        await expect(alice.locator("#messages li.own .sign")).to_have_count(2)
        async with room(other, "bob", "#rooms") as bob:
            badge = bob.locator("#rooms .badge:visible")
            await expect(badge).to_have_text(["2"])
            await bob.click("text=harbour")
            await expect(texts(bob)).to_have_text(["back soon", "look at this", "the north pier"])
            await expect(bob.locator("#messages img")).to_have_count(1)
            await bob.wait_for_function("() => document.querySelector('#messages img').naturalWidth > 0")
            await bob.screenshot(path=SCREENSHOTS / "rooms-other-server.png")
            await say(bob, "I see it")
            await expect(texts(alice)).to_have_text(["back soon", "look at this", "the north pier", "I see it"])
