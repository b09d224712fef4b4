"""The Live view in Chromium: a user plays, pauses and seeks, and the canvas shows the requested frames."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import SCREENSHOTS
from tests.browser.live import at, drag, ended, make_film, more_shown, round_trip, shown, state, watching
from tests.support.pictures import encoded, tall
from tests.support.running import Server, Start, until
from tests.support.streams import Camera
from tests.support.watching import sources

FPS, FRAMES = 25, 250


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Iterator[Server]:
    """A server with a recording of ten seconds, for tests that watch nothing else."""
    server = Server(tmp_path_factory.mktemp("yard"), sources=sources(yard=clip), connections_per_user=50)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def long_yard(tmp_path_factory: pytest.TempPathFactory, long_clip: Path) -> Iterator[Server]:
    """The same with a hundred seconds, for tests that must not reach the end on a slow machine."""
    server = Server(tmp_path_factory.mktemp("yard"), sources=sources(yard=long_clip), connections_per_user=50)
    yield server
    server.stop()


async def test_a_recording_plays_in_order_can_be_sought_and_starts_again(yard: Server) -> None:
    async with watching(yard, "yard") as page:
        await expect(page.locator("#time")).to_contain_text("/ 0:10")
        await page.select_option("#speed", "2")
        # On a busy machine the recording may have ended by now. The seek makes it end again, after `before` pictures.
        before = await drag(page, 0.02)
        await ended(page, "yard", FRAMES - 1, before)
        played = (await shown(page, "yard"))[before:]
        assert played == sorted(set(played)), "what was shown went back"
        await expect(page.locator("#time")).to_have_text("0:10 / 0:10")
        await expect(page.locator("#play")).to_have_text("Replay")
        before = await drag(page, 9.0)
        await ended(page, "yard", FRAMES - 1, before)
        sought = (await shown(page, "yard"))[before:]
        assert sought[0] == 9 * FPS
        assert sought == sorted(set(sought))
        until_then = len(await shown(page, "yard"))
        await page.click("#play")
        again = await more_shown(page, "yard", before=until_then)
        assert again[0] < FPS
        assert again == sorted(set(again))


async def test_a_paused_recording_stops_and_continues_where_it_was(long_yard: Server) -> None:
    async with watching(long_yard, "yard") as page:
        await more_shown(page, "yard")
        await page.click("#play")
        await state(page, "paused")
        await expect(page.locator("#play")).to_have_text("Play")
        await round_trip(page)
        until_then = await shown(page, "yard")
        await page.click("#play")
        went_on = await more_shown(page, "yard", before=len(until_then))
        assert went_on == sorted(set(went_on))
        assert until_then[-1] < went_on[0] <= until_then[-1] + FPS
        await page.click("#play")
        await state(page, "paused")
        before = await drag(page, 50.0)  # frames that were in flight at the pause are not drawn after it
        await at(page, "yard", 50 * FPS, before=before)
        still = await shown(page, "yard")
        await round_trip(page)
        assert await shown(page, "yard") == still


async def test_a_seek_shows_the_frame_at_its_position_paused_or_not(long_yard: Server) -> None:
    async with watching(long_yard, "yard") as page:
        await more_shown(page, "yard")
        await page.click("#play")
        await state(page, "paused")
        await drag(page, 7.0)
        await at(page, "yard", 7 * FPS)
        await expect(page.locator("#time")).to_have_text("0:07 / 1:40")
        # As fast as a hand moves the slider: some positions are skipped, none is late, and the last one is shown.
        positions = [tenth / 10 for tenth in range(70, 10, -1)]
        before = await drag(page, *positions)
        await at(page, "yard", round(1.1 * FPS), round(1.1 * FPS) + 1)
        dragged = (await shown(page, "yard"))[before:]
        assert dragged == sorted(dragged, reverse=True), "a picture from before a seek came after it"
        await round_trip(page)
        assert (await shown(page, "yard"))[before:] == dragged


async def test_frames_before_the_answer_to_a_seek_are_not_shown(long_yard: Server) -> None:
    async with watching(long_yard, "yard") as page:
        await more_shown(page, "yard")
        await page.evaluate(HOLD_SEEKS)
        before = await drag(page, 60.0)
        sent = long_yard.metric("sluice_video_sent_total", source="yard")
        await until(lambda: long_yard.metric("sluice_video_sent_total", source="yard") >= sent + 5)
        await page.evaluate("() => window.letGo()")
        await more_shown(page, "yard", before=before)
        played = (await shown(page, "yard"))[before:]
        assert played[0] >= 60 * FPS, "the newest: a busy page may pass over the first, and over many"
        assert played == sorted(set(played))


async def test_stop_releases_the_source_and_play_starts_it_again(long_yard: Server) -> None:
    async with watching(long_yard, "yard") as page:
        await more_shown(page, "yard", 20)
        await page.click("#stop")
        await state(page, "stopped")
        await expect(page.locator("#time")).to_have_text("0:00 / 1:40")
        await round_trip(page)
        await until(lambda: long_yard.metric("sluice_video_watches") == 0)
        before = len(await shown(page, "yard"))
        await page.click("#play")
        await state(page, "playing")
        assert (await more_shown(page, "yard", 1, before))[0] < 2 * FPS


@pytest.mark.chaos
async def test_a_paused_camera_continues_for_others_and_returns_at_once(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with watching(server, "gate") as alice, watching(server, "gate", user="bob") as bob:
        await more_shown(alice, "gate", 2)
        await expect(alice.locator("#bar")).to_be_hidden()
        await expect(alice.locator("#speed")).to_be_hidden()
        await alice.click("#play")
        await state(alice, "paused")
        await round_trip(alice)
        still = await shown(alice, "gate")
        seen_by_bob = await more_shown(bob, "gate", 8)
        assert await shown(alice, "gate") == still
        await alice.click("#play")
        assert (await more_shown(alice, "gate", 1))[0] >= seen_by_bob[-2], "it was shown what had waited"
        assert camera.opened == 1


async def test_the_frames_have_the_requested_properties(start_here: Start, tmp_path: Path) -> None:
    film = make_film(tmp_path / "wide.mp4", "coffee.png", 1280, 20)
    asked: list[dict[str, Any]] = []
    async with watching(start_here(sources=sources(wide=film))) as page:
        page.on("websocket", lambda socket: socket.on("framesent", lambda text: _keep(asked, text)))
        await page.reload()
        await page.evaluate("location.hash = '#live/wide'")
        await expect(page.locator("#size")).to_have_text("1280 by 720")
        await page.select_option("#speed", "0.25")  # a recording that has ended does not start again for other frames
        await page.wait_for_function("() => Number(document.querySelector('#bar').value) > 0.5")
        await page.select_option("#frame-width", "320")
        await expect(page.locator("#size")).to_have_text("320 by 180")
        await page.fill("#frame-quality", "10")
        await page.select_option("#frame-fps", "5")
        await page.select_option("#frame-action", "binarize")
        await expect(page.locator("#frame-help")).not_to_be_empty()
        await page.wait_for_function(WITHOUT_COLOUR)
        wish = asked[-1]
        assert (wish["source"], wish["width"], wish["quality"], wish["fps"]) == ("wide", 320, 10, 5)
        assert wish["position"] > 0, "other frames, but of the same place"
        # The tile shows the action too, with its own size and rate.
        await page.click("#enlarged header a")
        await page.wait_for_function(WITHOUT_COLOUR)
        await expect(page.locator("#tiles .state")).to_have_text("playing")
        await until(lambda: asked[-1] is not wish)
        assert (asked[-1]["action"], asked[-1]["fps"], asked[-1]["width"]) == ("binarize", 10, 320)


def _keep(asked: list[dict[str, Any]], text: str | bytes) -> None:
    message = json.loads(text)
    if message["type"] == "watch":
        asked.append(message)


# Seeks are held back until `letGo`, as on a slow network.
HOLD_SEEKS = """() => {
    const send = WebSocket.prototype.send;
    const held = [];
    WebSocket.prototype.send = function (data) {
        if (typeof data === "string" && data.includes('"seek"')) held.push(() => send.call(this, data));
        else send.call(this, data);
    };
    window.letGo = () => held.forEach((go) => go());
    // The page itself waits ten seconds for the answer, which a busy machine may take.
    const later = window.setTimeout;
    window.setTimeout = (work, pause, ...given) => later(work, pause === 10_000 ? 600_000 : pause, ...given);
}"""
# Drawn on a separate canvas, from which its number is read.
DRAW_SNAPSHOT = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 180 });
    canvas.setAttribute("aria-label", "Picture of snapshot");
    canvas.getContext("2d").drawImage(document.querySelector("#shot img"), 0, 0);
}"""
# A row of the photograph has colours, and none after the action.
WITHOUT_COLOUR = """() => {
    const canvas = document.querySelector("#live-view canvas");
    const row = canvas.getContext("2d").getImageData(0, canvas.height >> 1, canvas.width, 1).data;
    return canvas.width === 320 && row.every((value, index) => index % 4 === 3 || value === row[index - (index % 4)]);
}"""


async def test_findings_of_an_action_are_shown(start_here: Start, tmp_path: Path) -> None:
    folder = tmp_path / "stills"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(encoded(tall(400), ".jpg", 95))
    async with watching(
        start_here(sources=json.dumps({"hall": {"url": str(folder), "picture_seconds": 3600}})), "hall"
    ) as page:
        await expect(page.locator("#size")).to_contain_text(" by ")  # its only picture was drawn
        await page.select_option("#frame-action", "faces")
        await expect(page.locator("#found-now")).to_contain_text("faces: ")


async def test_a_snapshot_is_the_picture_at_the_current_position(long_yard: Server) -> None:
    async with watching(long_yard, "yard") as page:
        await more_shown(page, "yard")
        await page.click("#play")
        await state(page, "paused")
        await drag(page, 3.0)
        await at(page, "yard", 3 * FPS)
        await page.click("#shoot")
        image = page.locator("#shot img")
        await expect(image).to_have_js_property("naturalWidth", 320)
        await page.evaluate(DRAW_SNAPSHOT)
        assert await shown(page, "snapshot") == [3 * FPS]
        async with page.expect_download() as download:
            await page.click("#shot a")
        assert (await download.value).suggested_filename.startswith("yard-")


async def test_the_live_view_works_with_keyboard_and_screen_reader(long_yard: Server) -> None:
    async with watching(long_yard) as page:
        await more_shown(page, "yard", 1)
        await page.focus("nav[aria-label=Views] a[href='#live']")
        tile = page.get_by_role("link", name="Enlarge yard")
        while not await tile.evaluate("(element) => element === document.activeElement"):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="yard")).to_be_focused()
        await expect(page.get_by_role("img", name="Picture of yard")).to_be_visible()
        await page.keyboard.press("Space")
        await state(page, "paused")
        await expect(page.get_by_role("status").filter(has_text="paused")).to_have_count(1)
        before = await drag(page, 10.0)
        await at(page, "yard", 10 * FPS, before=before)
        await page.get_by_role("heading", name="yard").focus()
        await page.keyboard.press("ArrowRight")
        await at(page, "yard", 15 * FPS)
        bar = page.get_by_role("slider", name="Position")
        await expect(bar).to_have_value("15")
        await expect(bar).to_have_attribute("aria-valuetext", "0:15 of 1:40")
        for name in ("Play", "Stop", "Snapshot"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(tile).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#play")).to_have_text("Play")


async def test_the_live_view_fits_the_screen(start_here: Start, tmp_path: Path) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    (tmp_path / "notes.mp4").write_text("this is text")
    camera = Camera(make_film(tmp_path / "gate.mp4", "coffee.png", seconds=10)).start()
    film = make_film(tmp_path / "yard.mp4", "astronaut.png")
    places = sources(yard=film, gate=camera.url, quay="http://127.0.0.1:9/", notes=tmp_path / "notes.mp4")
    async with watching(start_here(sources=places)) as page:
        await more_shown(page, "gate", 2)
        await _photographs(page, "live")
        await page.click("[aria-label='Enlarge yard']")
        before = await drag(page, 0.0)  # the recording may have ended, and then it has no more frames
        await more_shown(page, "yard", 1, before)
        await page.select_option("#frame-action", "faces")
        await page.select_option("#frame-options select", "box")
        await expect(page.locator("#found-now")).to_contain_text("faces: ")
        await _photographs(page, "live-large")
        await page.click("#enlarged header a")
        await page.click("[aria-label='Enlarge gate']")
        await more_shown(page, "gate", 2)
        camera.lose()
        await state(page, "reconnecting")
        await _photographs(page, "live-reconnecting")


async def _photographs(page: Page, name: str) -> None:
    """At the width of a phone and of a desktop, in both colour schemes. Nothing may be wider than the screen."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        for width in (360, 1440):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png", full_page=width < 500)
            assert await page.evaluate("() => document.scrollingElement.scrollWidth") <= width
