"""The console in Chromium: a user drops a tall picture, and its slices are processed starting with the visible ones."""

import base64
from functools import cache

import pytest
from playwright.async_api import Page

from tests.browser.chromium import SCREENS, SCREENSHOTS, Proxy, console, order, states
from tests.support.client import PLUG, Client
from tests.support.pictures import encoded, small, tall
from tests.support.running import Server, Start, until

# Slices that a page sends before it waits for results.
IN_FLIGHT = 16


@cache
def picture(height: int = 10_000) -> bytes:
    return encoded(tall(height), ".jpg", 85)


async def choose(page: Page, data: bytes, kind: str = "image/jpeg") -> None:
    await page.set_input_files("#drop input", {"name": "tall", "mimeType": kind, "buffer": data})


async def drop(page: Page, data: bytes) -> None:
    script = """(text) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], "tall.jpg", { type: "image/jpeg" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    await page.evaluate(script, base64.b64encode(data).decode())


async def slow(page: Page) -> None:
    """Chooses an action that takes the server a third of a second per slice, independent of the browser."""
    await page.select_option("#action", "blur")
    await page.fill("#options input[name=radius]", "50")
    await page.select_option("#zoom", "1")


async def all_done(page: Page) -> None:
    await page.wait_for_selector("#count:text-matches('^(\\\\d+) of \\\\1 slices done[.]$')")


# After each viewport message, sends a message that the server refuses. The refusals are counted.
TELL_BEHIND = """() => {
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (data) {
        send.call(this, data);
        const { type, top } = typeof data === "string" ? JSON.parse(data) : {};
        if (type === "viewport" && top > 0) send.call(this, JSON.stringify({ type: "cancel", id: "unknown" }));
    };
}"""
ALL_SEEN = """() => [...document.querySelectorAll(".slice img")].every(
    (image) => image.complete && image.naturalWidth === 400)"""


async def done(page: Page, at_least: int) -> None:
    await page.wait_for_selector(f":nth-match(.slice[data-state=done], {at_least})")


async def sent(server: Server, count: int) -> None:
    """Waits until this many slices are waiting for the only worker, which is blocked."""
    await until(lambda: server.metric("sluice_queue_depth") == count)


async def test_a_dropped_picture_is_processed_from_the_top(start_here: Start) -> None:
    server = start_here(isolation="process", workers=1)
    async with await Client.connect(server) as other, console(server) as page:
        await other.plug()
        await drop(page, picture())
        await sent(server, IN_FLIGHT)
        await other.send("cancel", id="plug")
        await all_done(page)
        assert await order(page) == list(range(20))
        assert await page.locator(".slice img").count() == 20
        await page.wait_for_function(ALL_SEEN)


async def test_scrolling_changes_the_order_of_waiting_slices(start_here: Start) -> None:
    server = start_here(isolation="process", workers=1)
    async with await Client.connect(server) as other, console(server) as page:
        await other.plug()
        await choose(page, picture())
        await sent(server, IN_FLIGHT)
        await page.evaluate(TELL_BEHIND)
        await page.evaluate("scrollTo(0, document.body.scrollHeight)")
        await until(lambda: server.metric("sluice_refusals_total", reason="not_found") >= 1)
        await other.send("cancel", id="plug")
        await all_done(page)
        worked = await order(page)
        assert worked[0] == IN_FLIGHT - 1, f"the nearest to the end, which was in view, was not the first: {worked}"


async def test_cancel_stops_the_slices_and_retry_continues(start_here: Start) -> None:
    server = start_here(isolation="process", workers=1)
    async with await Client.connect(server) as other, console(server) as page:
        await other.plug()
        await other.slice("second plug", small(), **PLUG)
        await choose(page, picture())
        await sent(server, IN_FLIGHT + 1)
        await other.send("cancel", id="plug")  # one slice gets its turn, and then the second blocking task
        await done(page, 1)
        await page.click("#cancel")
        found = await states(page)
        assert {"done", "cancelled"} == set(found)
        await sent(server, 0)
        assert await page.is_disabled("#cancel")
        await page.click("#start")
        await other.send("cancel", id="second plug")
        await all_done(page)


@pytest.mark.chaos
async def test_after_a_lost_connection_the_picture_continues(start_here: Start) -> None:
    server = start_here(session_grace=600)
    async with Proxy(server) as proxy, console(server, proxy.url) as page:
        await slow(page)
        await choose(page, picture())
        await done(page, 3)
        await proxy.away(page)
        await all_done(page)
        assert sorted(await order(page)) == list(range(20))
    # Every slice was processed once: slices in progress were neither lost nor sent again.
    assert server.metric("sluice_slices_total", outcome="done") == 20


async def test_failed_slices_are_listed_with_their_reasons(start_here: Start) -> None:
    server = start_here(max_pixels=100_000)
    async with console(server) as page:
        await choose(page, picture(1000))
        await page.wait_for_selector(":nth-match(#failures li, 2)")
        assert "at most 100,000 pixels are accepted (max_pixels) (too_many_pixels)" in await page.inner_text(
            "#failures li >> nth=0"
        )
        assert await page.locator("#failures li").count() == 2
        assert "0 of 2 slices done, 2 not" in await page.inner_text("#count")


async def test_a_file_that_is_not_a_picture_is_reported(server: Server) -> None:
    async with console(server) as page:
        await choose(page, b"this is text", "image/jpeg")
        await page.wait_for_selector("#count:has-text('as a picture')")


async def test_findings_are_listed_and_framed(server: Server) -> None:
    async with console(server) as page:
        await page.select_option("#action", "faces")
        await page.select_option("#zoom", "1")
        await choose(page, picture(1000))
        await all_done(page)
        await page.wait_for_selector("#found li")
        assert await page.locator(".box").count() == await page.locator("#found li").count()


async def test_options_come_from_the_server_and_have_limits(server: Server) -> None:
    async with console(server) as page:
        await page.select_option("#action", "blur")
        assert await page.input_value("#options input[name=radius]") == "3"
        await choose(page, picture(1000))
        await all_done(page)
        await page.fill("#options input[name=radius]", "1000")
        assert not await page.evaluate("document.querySelector('#wish').checkValidity()")


async def test_the_picture_view_works_with_the_keyboard(server: Server) -> None:
    async with console(server) as page:
        for _ in range(await page.locator("nav[aria-label=Views] a").count() + 1):  # the views, then the file
            await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.type") == "file"
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await all_done(page)
        assert await page.inner_text("#count") == "37 of 37 slices done."


async def test_without_a_token_the_page_asks_for_one(server: Server) -> None:
    async with console(server) as page:
        await page.context.clear_cookies()
        await page.goto(server.url)
        await page.fill("#entry input", server.token("bob"))
        await page.click("#entry button")
        await page.wait_for_selector("#connection[data-state=open]")
        assert "token" not in page.url


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
async def test_the_picture_view_fits_the_screen(server: Server, width: int, scheme: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    async with console(server, width=width, height=800, color_scheme=scheme) as page:
        await choose(page, picture())
        await done(page, 4)
        await page.screenshot(path=SCREENSHOTS / f"console-{width}-{scheme}.png")
        assert await page.evaluate("document.scrollingElement.scrollWidth") <= width
        await all_done(page)
