"""The Rooms view with faults: lost connections and servers, refusals, and malicious content."""

import signal

import pytest
from playwright.async_api import expect

from handlers.core.auth import issue
from tests.browser.chromium import Proxy, console
from tests.browser.rooms import go, joined, room, say, texts
from tests.support.running import SECRET, Server, Start, until

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def server(start_here: Start) -> Server:
    """A server for each test, because rooms outlive their members."""
    return start_here()


@pytest.mark.chaos
async def test_unacknowledged_messages_are_sent_again_once_after_a_kill(start: Start) -> None:
    server = start()
    async with room(server, "alice") as alice, room(server, "bob") as bob:
        await joined(alice)
        await joined(bob)
        await say(alice, "before")
        await expect(texts(bob)).to_have_text(["before"])
        await expect(alice.locator("#messages .sign")).to_have_count(1)
        server.stop(signal.SIGKILL)
        await expect(alice.locator("#connection")).to_have_attribute("data-state", "waiting")
        await say(alice, "first")
        await say(alice, "second")
        await expect(alice.locator("li[data-state=sending]")).to_have_count(2)
        start(port=server.port)
        for page in (alice, bob):
            await expect(texts(page)).to_have_text(["before", "first", "second"])
        await expect(alice.locator("#messages .sign")).to_have_count(3)
        await say(bob, "after")
        await expect(texts(alice)).to_have_text(["before", "first", "second", "after"])


@pytest.mark.chaos
async def test_a_message_whose_acknowledgement_was_lost_is_stored_once(server: Server) -> None:
    async with Proxy(server) as proxy, room(server, "alice", url=proxy.url) as alice, room(server, "bob") as bob:
        await joined(alice)
        await joined(bob)
        proxy.deaf = True
        await say(alice, "once")
        await expect(texts(bob)).to_have_text(["once"])
        await expect(alice.locator("li[data-state=sending]")).to_have_count(1)
        proxy.cut()
        proxy.deaf = False
        await expect(alice.locator("#messages .sign")).to_have_count(1)
        await say(alice, "again")
        for page in (alice, bob):
            await expect(texts(page)).to_have_text(["once", "again"])


async def test_a_refusal_is_reported_and_can_be_tried_again(start_here: Start) -> None:
    server = start_here(chat_text=10)
    async with room(server, "bob") as bob:
        await joined(bob)
        # The page limits the length of a text. This script bypasses the limit.
        await bob.evaluate("document.querySelector('#text').maxLength = 100")
        await bob.evaluate("document.querySelector('#text').value = 'x'.repeat(11)")
        await bob.evaluate("document.querySelector('#text').dispatchEvent(new Event('input'))")
        await bob.press("#text", "Enter")
        await expect(bob.locator("#messages li[data-state=failed]")).to_contain_text("chat_text")
        await bob.click("text=Try again")
        await expect(bob.locator("#messages li[data-state=failed]")).to_contain_text("chat_text")
        await bob.click("text=Discard")
        await expect(bob.locator("#messages li")).to_have_count(0)


async def test_scripts_in_names_and_texts_are_shown_and_not_run(server: Server) -> None:
    async with room(server, EVIL) as evil, room(server, "bob") as bob:
        await joined(bob)
        alerts: list[str] = []
        bob.on("dialog", lambda dialog: alerts.append(dialog.message))
        await joined(evil)
        await say(evil, f"{EVIL} http://127.0.0.1/x. javascript:alert(3)")
        await expect(texts(bob)).to_have_text([f"{EVIL} http://127.0.0.1/x. javascript:alert(3)"])
        await expect(bob.locator("#messages .author")).to_have_text([EVIL])
        await expect(bob.locator("#present li")).to_contain_text([EVIL])
        assert await bob.locator("#messages a").evaluate_all("links => links.map(a => a.href)") == [
            "http://127.0.0.1/x"
        ]
        await go(evil, "#direct/bob", "bob")
        await say(evil, EVIL)
        await expect(bob.locator("#direct-list bdi")).to_have_text([EVIL])
        assert await bob.locator("script:not([src]), main img[src=x]").count() == 0
        assert alerts == []


async def test_a_missing_scope_of_the_token_is_reported(server: Server) -> None:
    async with console(server) as page:
        await page.click("nav[aria-label=Views] a[href='#rooms']")
        await expect(page.locator("#entry")).to_contain_text("with the scope chat")
        await expect(page.locator("#connection")).to_have_text("no access")
        await page.click("nav[aria-label=Views] a[href='#picture']")
        await expect(page.locator("#entry")).to_be_hidden()


@pytest.mark.chaos
@pytest.mark.parametrize("fragment", ["#room/harbour", "#direct/alice"])
async def test_after_a_server_has_lost_its_events_the_page_starts_again(start: Start, fragment: str) -> None:
    server = start()
    async with room(server, "alice", fragment) as alice:
        heard: list[str | bytes] = []
        alice.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(frame)))
        await alice.reload()
        await joined(alice)
        for text in ("one", "two"):
            await say(alice, text)
        await expect(alice.locator("#messages .sign")).to_have_count(2)
        # The messages may arrive first. A message without an acknowledgement would be sent again.
        await until(lambda: sum(isinstance(each, str) and '"type":"ack"' in each for each in heard) == 2)
        server.stop(signal.SIGKILL)
        for path in (server.folder / "var").glob("sluice.db*"):
            path.unlink()
        start(port=server.port)
        await expect(alice.locator("#messages li")).to_have_count(0)
        await say(alice, "three")
        await expect(texts(alice)).to_have_text(["three"])
        await expect(alice.locator("#messages .sign")).to_have_count(1)


async def test_a_room_that_the_token_does_not_name_is_not_entered(server: Server) -> None:
    token = issue(SECRET, "bob", "images chat", 600, rooms=["team-*"])
    async with console(server, token=token, fragment="#room/vault") as bob:
        await expect(bob.locator("#before")).to_have_text("Your token does not allow this room.")
        await say(bob, "let me in")
        await expect(bob.locator("#messages li[data-state=failed]")).to_contain_text("forbidden")
        await bob.evaluate("location.hash = '#room/team-blue'")
        await expect(bob.locator("#before")).to_contain_text("There are no messages yet")
