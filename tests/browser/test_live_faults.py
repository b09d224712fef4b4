"""The Live view when sources and servers fail, pages are slow, or the page is hidden."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import console
from tests.browser.live import RECORD, at, drag, ended, enlarge, more_shown, shown, state, watching
from tests.support.running import GUARD, Start, until
from tests.support.streams import Camera
from tests.support.watching import Viewer, sources

pytestmark = pytest.mark.chaos


FPS = 25
# Counts the bitmaps and blob URLs that the page creates from now on and has not released.
COUNT = """() => {
    window.held = { bitmaps: 0, urls: 0, made: 0 };
    const make = window.createImageBitmap;
    window.createImageBitmap = async (...given) => {
        const bitmap = await make(...given);
        window.held.bitmaps += 1;
        window.held.made += 1;
        const close = bitmap.close;
        bitmap.close = () => {
            window.held.bitmaps -= 1;
            close.call(bitmap);
        };
        return bitmap;
    };
    const [give, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
    URL.createObjectURL = (blob) => ((window.held.urls += 1), give(blob));
    URL.revokeObjectURL = (url) => ((window.held.urls -= 1), revoke(url));
}"""
# Blocks drawing until `release`.
BLOCK = """() => {
    const paint = window.requestAnimationFrame;
    const waiting = [];
    window.requestAnimationFrame = (work) => waiting.push(work);
    window.release = () => {
        window.requestAnimationFrame = paint;
        waiting.forEach((work) => paint(work));
    };
}"""
COUNT_PAUSES = """() => {
    const send = WebSocket.prototype.send;
    window.pauses = 0;
    WebSocket.prototype.send = function (data) {
        if (typeof data === "string") window.pauses += JSON.parse(data).type === "pause";
        send.call(this, data);
    };
}"""
IN_SIGHT = """() => [...document.querySelectorAll("#tiles .picture")].filter((picture) => {
    const { top, bottom } = picture.getBoundingClientRect();
    return bottom > 2 && top < innerHeight - 2;
}).length"""


async def hide(page: Page, is_hidden: bool) -> None:
    """What the browser does to the page of a hidden tab."""
    script = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await page.evaluate(script, is_hidden)


async def test_a_lost_camera_is_reported_and_recovers(start_here: Start, camera: Camera) -> None:
    async with watching(start_here(sources=sources(gate=camera.url)), "gate") as page:
        await more_shown(page, "gate", 2)
        camera.lose()
        await state(page, "reconnecting")
        veil = page.locator("#enlarged .veil")
        await expect(veil).to_contain_text("Last picture")
        await expect(veil).to_contain_text("The source cannot be reached.")
        await expect(page.locator("#enlarged-detail")).to_contain_text("The source cannot be reached.")
        await expect(page.locator("#fps")).to_have_text("0")
        before = await shown(page, "gate")
        assert before == sorted(set(before)), "a placeholder was painted as if it were a picture"
        camera.start()
        await state(page, "playing")
        await expect(veil).to_be_empty()
        await more_shown(page, "gate", 2)


async def test_the_delay_is_right_with_clocks_that_differ(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with console(server, token=server.token("alice", "images video")) as page:
        shift = "(seconds) => { const now = Date.now; Date.now = () => now.call(Date) + 1000 * seconds; }"
        await page.evaluate(shift, 3600)
        await page.evaluate("location.hash = '#live/gate'")
        delay = "() => /^[0-9.]+ m?s$/.exec(document.querySelector('#delay').textContent)?.[0]"
        value, unit = (await (await page.wait_for_function(delay, timeout=120_000)).json_value()).split()
        assert float(value) / (1000 if unit == "ms" else 1) < 1800


async def test_after_a_kill_of_the_server_each_source_continues_where_it_was(
    start: Start, long_clip: Path, clip: Path
) -> None:
    """One recording plays, one is paused, one has ended. After the change of the server all three are as before."""
    places = sources(yard=long_clip, dock=long_clip, quay=clip)
    server = start(sources=places)
    async with watching(server, "quay") as page:
        before = await drag(page, 9.9)
        await ended(page, "quay", 249, before)
        await enlarge(page, "dock")
        await page.click("#play")
        await state(page, "paused")
        await drag(page, 4.0)
        await at(page, "dock", 4 * FPS)
        await enlarge(page, "yard")
        await drag(page, 60.0)
        await page.wait_for_function(f"() => window.shown.yard?.at(-1) > {60 * FPS}")
        server.stop(signal.SIGKILL)
        await state(page, "no connection")
        await expect(page.locator("#enlarged .veil")).to_contain_text("The server cannot be reached.")
        yard, at_the_end = await shown(page, "yard"), await shown(page, "quay")
        start(port=server.port, sources=places)
        await state(page, "playing")
        await page.wait_for_function("(count) => window.shown.yard.length > count", arg=len(yard))
        assert yard[-1] - 1 <= (await shown(page, "yard"))[len(yard)] <= yard[-1] + 2 * FPS
        await enlarge(page, "dock")
        await state(page, "paused")
        assert (await shown(page, "dock"))[-1] == 4 * FPS
        await enlarge(page, "quay")
        await state(page, "ended")
        assert await shown(page, "quay") == at_the_end


async def test_a_page_that_draws_slowly_shows_the_newest_frame(start_here: Start, long_clip: Path) -> None:
    server = start_here(sources=sources(yard=long_clip))
    came = 0

    def count(data: str | bytes) -> None:
        nonlocal came
        came += isinstance(data, bytes)

    async with watching(server) as page:
        page.on("websocket", lambda socket: socket.on("framereceived", count))
        await page.reload()
        await page.evaluate(RECORD)
        await page.evaluate("() => { location.hash = '#live/yard'; }")
        await more_shown(page, "yard")
        await page.evaluate(BLOCK)
        before, painted = came, await shown(page, "yard")
        dropped = server.metric("sluice_video_dropped_total", source="yard")
        await until(lambda: server.metric("sluice_video_dropped_total", source="yard") >= dropped + 40)
        assert came - before <= 3 + 1, "frames wait in the page"  # one frame may have been in flight
        await page.evaluate("() => window.release()")
        await page.wait_for_function("(count) => window.shown.yard.length >= count", arg=len(painted) + 5)
        after = (await shown(page, "yard"))[len(painted) :]
        assert after == sorted(set(after))
        # The frames whose drawing had started, the waiting one, and then the newest one.
        assert after[3] >= painted[-1] + 40
        await page.wait_for_function("() => Number(document.querySelector('#dropped').textContent) >= 40")


async def test_a_hundred_frames_leave_no_bitmaps_and_urls(start_here: Start, long_clip: Path) -> None:
    async with watching(start_here(sources=sources(yard=long_clip)), "yard") as page:
        await page.evaluate(COUNT)
        for _ in range(2):
            await page.click("#shoot")
            await expect(page.locator("#shot img")).to_have_js_property("complete", True)
            await page.click("#shot button")
        await page.wait_for_function("() => window.held.made >= 100")
        await page.click("#stop")
        await state(page, "stopped")
        await page.wait_for_function("() => window.held.bitmaps === 0")
        await page.wait_for_function("() => window.held.urls === 0")


async def test_only_visible_sources_are_watched(start_here: Start, long_clip: Path) -> None:
    server = start_here(sources=json.dumps({letter: str(long_clip) for letter in "abcdefghij"}))

    def watched(count: int) -> bool:
        return server.metric("sluice_video_watches") == count

    async def all_in_sight(page: Page) -> int:
        """Returns the number of visible sources when these are watched. A text that gets longer may move them in the
        meantime.
        """
        async with asyncio.timeout(GUARD):
            while not watched(count := int(await page.evaluate(IN_SIGHT))):
                pass
        return count

    async with watching(server, width=360, height=640) as page:
        await more_shown(page, "a", 2)
        assert await all_in_sight(page) < 5
        await page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        await more_shown(page, "j", 2)
        await all_in_sight(page)  # the sources above were paused immediately, and are released a little later
        assert await shown(page, "e") == []
        await page.evaluate(COUNT_PAUSES)
        await hide(page, True)
        assert await page.evaluate("() => window.pauses") > 0, "paused at once"
        await until(lambda: watched(0))  # and released a little later, which may have happened already
        still = await shown(page, "j")
        async with await Viewer.enter(server) as viewer:
            await viewer.watch("a")
            await viewer.numbers(20)
        assert await shown(page, "j") == still
        await hide(page, False)
        assert (await more_shown(page, "j", 1, len(still)))[0] >= still[-1]
        await page.click("nav[aria-label=Views] a[href='#picture']")
        await until(lambda: watched(0))


async def test_as_many_sources_are_watched_as_the_server_allows(start_here: Start, long_clip: Path) -> None:
    server = start_here(sources=sources(one=long_clip, two=long_clip, three=long_clip), video_watches=2)
    async with watching(server) as page:
        third = page.locator("#tiles li:nth-child(3)")
        await expect(third.locator(".state")).to_have_text("not watched")
        await expect(third.locator(".veil")).to_contain_text("At most 2 sources are shown at the same time.")
        await more_shown(page, "two", 2)
        await third.locator("a").click()
        await more_shown(page, "three", 2)
        await page.keyboard.press("Escape")
        await expect(third.locator(".state")).to_have_text("not watched")
        await more_shown(page, "one", 2)


async def test_a_temporarily_failed_source_is_tried_again(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=json.dumps({"gate": {"url": camera.url, "viewers": 1}}))
    async with watching(server, "gate", user="bob") as bob:
        await more_shown(bob, "gate", 2)
        async with watching(server, "gate") as alice:
            await state(alice, "failed")
            await expect(alice.locator("#enlarged .veil")).to_contain_text("gate has its maximum number of viewers (1")
            await expect(alice.locator("#play")).to_have_text("Try again")
            await bob.click("#stop")
            await state(alice, "playing")
            await more_shown(alice, "gate", 2)


async def test_a_source_that_cannot_be_watched_is_reported(start_here: Start, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("this is text")
    async with watching(start_here(sources=sources(notes=tmp_path / "notes.mp4", yard=clip)), "notes") as page:
        await state(page, "failed")
        await expect(page.locator("#enlarged .veil")).to_have_text("failednotes: this is not a readable video")
        await page.evaluate("() => { location.hash = '#live/cellar'; }")
        await expect(page.locator("#enlarged")).to_be_hidden()
        await more_shown(page, "yard", 2, before=0)


async def test_missing_sources_and_a_missing_scope_are_reported(start_here: Start) -> None:
    server = start_here()
    async with watching(server) as page:
        await expect(page.locator("#no-sources")).to_contain_text("no sources to watch")
    async with console(server) as page:
        await page.click("nav[aria-label=Views] a[href='#live']")
        await expect(page.locator("#entry")).to_contain_text("with the scope video")
        await page.click("nav[aria-label=Views] a[href='#picture']")
        await expect(page.locator("#entry")).to_be_hidden()
