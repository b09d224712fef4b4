"""The Rooms view in Chromium: users talk, leave, and return to what they missed."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.browser.chromium import SCREENS, SCREENSHOTS
from tests.browser.rooms import drop, go, joined, paste, room, say, texts
from tests.support.chats import Chatter
from tests.support.pictures import encoded, tall
from tests.support.running import Server, Start

# Scrolls to the top of the log, and returns the first message and its position. Messages that arrive before the page
# has noticed the scroll would move it back to the end.
AT_TOP = """async () => {
    const log = document.querySelector("#log");
    while (log.scrollTop > 0) {
        const scrolled = new Promise((resolve) => log.addEventListener("scroll", resolve, { once: true }));
        log.scrollTop = 0;
        await scrolled;
    }
    const item = document.querySelector("#messages > li .text");
    return [item.textContent, item.getBoundingClientRect().top];
}"""
# It is shown for a few seconds only.
NOTE_TYPING = """() => {
    const shown = document.querySelector("#typing");
    window.typing = [];
    new MutationObserver(() => typing.push(shown.textContent)).observe(shown, { childList: true, subtree: true });
}"""
PLACE = """(text) => [...document.querySelectorAll("#messages > li .text")]
    .find((item) => item.textContent === text).getBoundingClientRect().top"""


@pytest.fixture
def server(start_here: Start) -> Server:
    """A server for each test, because rooms outlive their members."""
    return start_here()


async def test_two_browsers_exchange_messages(server: Server) -> None:
    async with room(server, "alice") as alice, room(server, "bob") as bob:
        await joined(alice)
        await joined(bob)
        await expect(alice.locator("#present li")).to_have_text(["you", "bob"])
        await alice.evaluate(NOTE_TYPING)
        await bob.type("#text", "hi")
        await alice.wait_for_function("() => typing.includes('bob is typing …')")
        await bob.press("#text", "Enter")
        await say(alice, "hello bob")
        await say(alice, "one more")
        for page in (alice, bob):
            await expect(texts(page)).to_have_text(["hi", "hello bob", "one more"])
        await expect(alice.locator("#messages li:not(.own) .author")).to_have_text(["bob"])
        await expect(alice.locator("#messages li.own .sign")).to_have_count(2)
        await expect(alice.locator("#typing")).to_be_empty()
        await expect(bob.locator(".badge:visible")).to_have_count(0)


async def test_a_user_who_returns_finds_missed_messages_and_attachments(server: Server) -> None:
    async with room(server, "bob", "#direct/alice") as bob:
        await expect(bob.locator("#before")).to_contain_text("There are no messages with alice yet")
        await say(bob, "I am off")
        await expect(bob.locator(".sign")).to_have_count(1)
    async with room(server, "alice", "#direct/bob") as alice:
        await say(alice, "look at this")
        await drop(alice, encoded(tall(1600), ".jpg", 85))
        await expect(alice.locator("#attached li[data-state=done] img")).to_have_count(1)
        await say(alice, "a picture")
        await say(alice, "that was it")
        await expect(alice.locator("#messages .sign")).to_have_count(3)
    async with await Chatter.enter(server, "bob") as phone, room(server, "bob", "#rooms") as bob:
        await expect(bob.locator("#direct-list .badge")).to_have_text("3")
        await expect(bob.locator("#all-unread")).to_have_text("3")
        await expect(bob).to_have_title("(3) Sluice")
        await bob.click("#direct-list a")
        await expect(texts(bob)).to_have_text(["I am off", "look at this", "a picture", "that was it"])
        await expect(bob.locator("li.first-new .text")).to_have_text("look at this")
        image = bob.locator("#messages li:nth-child(3) img")
        await expect(image).to_have_js_property("naturalWidth", 256)
        await image.click()
        await expect(bob.locator("#whole img")).to_have_js_property("naturalHeight", 1600)
        await bob.keyboard.press("Escape")
        await expect(bob.locator(".badge:visible")).to_have_count(0)
        await expect(bob).to_have_title("Sluice")
        await phone.counted("direct/alice", 0)
    async with room(server, "bob", "#rooms") as bob:
        await expect(bob.locator("#direct-list a")).to_have_count(1)
        await expect(bob.locator(".badge:visible")).to_have_count(0)


async def test_an_attachment_can_be_played_and_removed(server: Server) -> None:
    async with room(server, "alice") as alice:
        await joined(alice)
        await alice.set_input_files("#attach input", "tests/support/samples/sine.mp3")
        await expect(alice.locator("#attached li[data-state=done]")).to_have_count(1)
        await paste(alice, encoded(tall(200), ".jpg", 85))
        await expect(alice.locator("#attached li[data-state=done]")).to_have_count(2)
        await alice.set_input_files("#attach input", {"name": "x.html", "mimeType": "text/html", "buffer": b"<p>"})
        await expect(alice.locator("#attached li[data-state=failed]")).to_contain_text("x.html")
        await expect(alice.locator("#compose button.main")).to_be_disabled()
        await alice.click("#attached li[data-state=failed] button[aria-label^=Remove]")
        await alice.click("#compose button.main")
        await expect(alice.locator("#messages .sign")).to_have_count(1)
        await expect(alice.locator("#messages img")).to_have_count(1)
        await expect(alice.locator("audio")).to_have_js_property("readyState", 4)
        await expect(alice.locator("#attached li")).to_have_count(0)


async def test_older_messages_are_added_at_the_top_and_the_view_does_not_move(start_here: Start) -> None:
    server = start_here(chat_rate=1000)
    async with await Chatter.enter(server, "carol") as carol:
        await carol.join("harbour")
        for number in range(1, 201):
            await carol.say("\n".join([f"message {number}"] * (number % 3 + 1)), str(number), room="harbour")
        async with room(server, "alice") as alice:
            await expect(texts(alice).last).to_contain_text("message 200")
            assert await texts(alice).count() < 150
            while await texts(alice).first.inner_text() != "message 1\nmessage 1":
                before = await texts(alice).count()
                seen, place = await alice.evaluate(AT_TOP)
                await expect(texts(alice)).not_to_have_count(before)
                assert abs(await alice.evaluate(PLACE, seen) - place) <= 1, f"{seen} has moved"
            await alice.evaluate(AT_TOP)
            await expect(alice.locator("#before")).to_have_text("This is the first message.")
            numbers = [re.findall(r"\d+", text)[0] for text in await texts(alice).all_inner_texts()]
            assert numbers == [str(number) for number in range(1, 201)]
            # A reader of earlier messages is informed of new ones, and the page does not move.
            seen, place = await alice.evaluate(AT_TOP)
            await carol.say("news", room="harbour")
            await expect(alice.locator("#newest")).to_be_visible()
            assert await alice.evaluate(PLACE, seen) == place
            await alice.click("#newest")
            await expect(texts(alice).last).to_be_in_viewport()
            await expect(alice.locator("#newest")).to_be_hidden()


async def test_unread_counts_change_with_the_visible_messages(server: Server) -> None:
    async with room(server, "bob") as bob, await Chatter.enter(server, "alice") as alice:
        await joined(bob)
        await alice.join("harbour")
        await alice.say("seen", room="harbour")
        await expect(texts(bob)).to_have_text(["seen"])
        await bob.click("nav[aria-label=Views] a[href='#picture']")
        await expect(bob.locator("#talk")).to_be_hidden()
        for number in range(3):
            await alice.say(f"unseen {number}", room="harbour")
        await expect(bob.locator("#all-unread")).to_have_text("3")
        await bob.click("nav[aria-label=Views] a[href='#rooms']")
        await expect(bob.locator("#room-list .badge")).to_have_text("3")
        await bob.click("#room-list a")
        await expect(bob.locator(".badge:visible")).to_have_count(0)
        await bob.click("#leave")
        await expect(bob.locator("#room-list a")).to_have_count(0)
        await expect(bob.locator("#nowhere")).to_be_visible()


async def test_a_room_is_joined_by_name_and_a_bad_name_is_reported(server: Server) -> None:
    async with room(server, "bob", "#rooms") as bob:
        await bob.fill("#go-name", "two words")
        await bob.press("#go-name", "Enter")
        assert "without spaces" in await bob.evaluate("document.querySelector('#go-name').validationMessage")
        await bob.fill("#go-name", "harbour")
        await bob.press("#go-name", "Enter")
        await expect(bob.locator("#talk-name")).to_have_text("harbour")
        await expect(bob.locator("#before")).to_contain_text("There are no messages yet")
        await bob.fill("#go-name", "alice w.")
        await bob.click("text=Write to the user")
        await expect(bob.locator("#talk-name")).to_have_text("alice w.")


async def test_an_announcement_is_shown_to_all(server: Server) -> None:
    async with room(server, "bob", "#picture") as bob, await Chatter.enter(server, "root", "chat admin") as root:
        await root.say("hello", to="bob")
        await expect(bob.locator("#all-unread")).to_have_text("1")  # then the page is connected, whatever view it shows
        await root.send("broadcast", text="The server restarts at noon.")
        await expect(bob.locator(".notice")).to_contain_text("root: The server restarts at noon.")
        await bob.click(".notice button")
        await expect(bob.locator(".notice")).to_have_count(0)


async def _goes_on_typing(who: Chatter) -> None:
    while True:
        await who.send("typing", room="harbour")
        await asyncio.sleep(1)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
async def test_the_rooms_fit_the_screen(server: Server, width: int, scheme: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    async with room(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await joined(alice)
        await go(alice, "#direct/carol", "carol")
        await go(alice, "#room/harbour", "harbour")
        await bob.join("harbour")
        await bob.say("Good morning. The scans of the second volume are in.", room="harbour")
        await bob.say(
            "Page 12 has a fold, see https://example.org/a/rather/long/address/" + "x" * 80, "2", room="harbour"
        )
        await say(alice, "I see. Here it is, straightened:")
        await alice.set_input_files("#attach input", "static/sample.jpg")
        await expect(alice.locator("#attached li[data-state=done] img")).to_have_count(1)
        await alice.click("#compose button.main")
        await alice.set_input_files("#attach input", "tests/support/samples/sine.mp3")
        await expect(alice.locator("#attached li[data-state=done]")).to_have_count(1)
        await say(alice, "and this is how it sounds")
        await bob.say("Unbrokenlongwordofsomebodywhodoesnotknowspaces" * 3, "5", room="harbour")
        await bob.say("Are you there?", to="dora")
        await expect(alice.locator("#messages .sign")).to_have_count(3)
    options = {"width": width, "height": 800, "color_scheme": scheme}
    async with (
        room(server, "dora", "#rooms", **options) as dora,
        await Chatter.enter(server, "bob") as bob,
        await Chatter.enter(server, "root", "chat admin") as root,
    ):
        await go(dora, "#room/harbour", "harbour")
        await joined(dora)
        await dora.evaluate("location.hash = '#rooms'")
        await expect(dora.locator("#talk")).to_be_hidden()
        await expect(dora.locator("#direct-list .badge")).to_have_text("1")
        await bob.join("harbour")
        await bob.say("One for dora", room="harbour")
        await expect(dora.locator("#room-list .badge")).to_have_text("1")
        await dora.screenshot(path=SCREENSHOTS / f"rooms-{width}-{scheme}-list.png")
        assert await dora.evaluate("document.scrollingElement.scrollWidth") <= width
        await dora.click("#room-list a")
        await say(dora, "Here I am.")
        await expect(dora.locator(".sign")).to_have_count(1)
        await root.send("broadcast", text="The server restarts at noon.")
        await expect(dora.locator(".notice")).to_have_count(1)
        typing = asyncio.create_task(_goes_on_typing(bob))
        await expect(dora.locator("#typing")).to_have_text("bob is typing …")
        typing.cancel()
        await expect(dora.locator("#messages img")).to_have_js_property("complete", True)
        await dora.screenshot(path=SCREENSHOTS / f"rooms-{width}-{scheme}.png")
        assert await dora.evaluate("document.scrollingElement.scrollWidth") <= width
        assert await dora.evaluate(
            "document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth"
        )
