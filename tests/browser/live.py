"""Helpers for the tests of the Live view: a browser that shows it, and the numbers on its canvases, by source.

The number of each picture is read from the canvas when it is drawn, so none is missed.
"""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
from playwright.async_api import Page, expect

from tests.browser.chromium import console
from tests.support.pictures import photograph
from tests.support.running import Server
from tests.support.streams import ACROSS, BITS

# -1 stands for a picture without a number.
RECORD = f"""() => {{
    const draw = CanvasRenderingContext2D.prototype.drawImage;
    const read = (context) => {{
        const block = context.canvas.width / {ACROSS};
        const rows = context.getImageData(0, 0, context.canvas.width, Math.ceil(2 * block));
        let number = 0;
        for (let bit = 0; bit < {BITS}; bit++) {{
            const x = Math.floor((bit % {ACROSS} + 0.5) * block);
            const y = Math.floor((Math.floor(bit / {ACROSS}) + 0.5) * block);
            const value = rows.data[4 * (y * rows.width + x)];
            if (value > 80 && value < 176) return -1;
            number += value > 128 ? 2 ** bit : 0;
        }}
        return number;
    }};
    window.shown = {{}};
    const decode = window.createImageBitmap;
    window.unpainted = 0;
    window.createImageBitmap = async (...given) => {{
        window.unpainted++;
        const bitmap = await decode(...given);
        bitmap.close = () => {{
            ImageBitmap.prototype.close.call(bitmap);
            window.unpainted--;
        }};
        return bitmap;
    }};
    CanvasRenderingContext2D.prototype.drawImage = function (...given) {{
        draw.apply(this, given);
        const name = this.canvas.getAttribute("aria-label").split(" ").at(-1);
        (window.shown[name] ??= []).push(read(this));
    }};
}}"""


@asynccontextmanager
async def watching(
    server: Server,
    source: str = "",
    user: str = "alice",
    url: str = "",
    scope: str = "images chat video",
    **options: Any,
) -> AsyncIterator[Page]:
    """Opens the Live view with this source enlarged."""
    fragment = f"#live/{source}" if source else "#live"
    async with console(server, url, token=server.token(user, scope), fragment=fragment, **options) as page:
        await page.evaluate(RECORD)
        yield page


async def shown(page: Page, source: str) -> list[int]:
    """Returns the numbers of the pictures in the order in which they were drawn."""
    numbers: list[int] = await page.evaluate("(name) => window.shown[name] ?? []", source)
    return numbers


async def more_shown(page: Page, source: str, count: int = 5, before: int | None = None) -> list[int]:
    """Waits for this many drawn pictures from now on, or after the first ``before`` ones, and returns their numbers."""
    before = len(await shown(page, source)) if before is None else before
    script = "([name, count]) => (window.shown[name] ?? []).length >= count"
    await page.wait_for_function(script, arg=[source, before + count])
    return (await shown(page, source))[before:]


async def at(page: Page, source: str, number: int, most: int | None = None, before: int = 0) -> None:
    """Waits until the last drawn picture has this number, or one up to ``most``.

    The first ``before`` pictures are not accepted, because they were drawn before the request.
    """
    script = """([name, least, most, before]) => {
        const numbers = window.shown[name] ?? [];
        return numbers.length > before && least <= numbers.at(-1) && numbers.at(-1) <= most;
    }"""
    await page.wait_for_function(script, arg=[source, number, number if most is None else most, before])


async def state(page: Page, *labels: str, timeout: float = 90) -> None:
    """Waits until the page shows one of these states for the enlarged source."""
    script = "(labels) => labels.includes(document.querySelector('#enlarged-label').textContent)"
    await page.wait_for_function(script, arg=labels, timeout=timeout * 1000)


async def ended(page: Page, source: str, last: int, before: int) -> None:
    """Waits until the last picture is drawn, after the first ``before`` pictures, and the page shows that the recording
    has ended.

    The page shows a state a little after it is true, and the text may be about an earlier end. So it must be drawn
    again.
    """
    await at(page, source, last, before=before)
    await page.evaluate("() => dispatchEvent(new Event('hashchange'))")
    await state(page, "ended")


async def enlarge(page: Page, source: str) -> None:
    """Clicks this source in the list, and waits until the controls belong to it.

    The browser changes the URL at the click and fires ``hashchange`` later. Until then, the play button and the slider
    belong to the previous source.
    """
    await page.click(f"#source-list a[href='#live/{source}']")
    await expect(page.locator("#enlarged-name")).to_have_text(source)


async def round_trip(page: Page) -> None:
    """Waits for an answer of the server. All earlier messages have then arrived, and all earlier frames are drawn.

    It sends two requests, because the server's newest frame waits until the page has drawn the earlier ones. The
    process that reads a recording is not asked. It may send one more frame after "paused", but none from before an
    answered seek.
    """
    for _ in range(2):
        await page.click("#shoot")
        await expect(page.locator("#shot img")).to_have_js_property("complete", True)
        await page.keyboard.press("Escape")
        await expect(page.locator("#shot")).to_be_hidden()
        await page.wait_for_function("() => window.unpainted === 0")


async def drag(page: Page, *positions: float) -> int:
    """Moves the slider to these positions, one right after the other, once it shows the length of the recording.

    Returns how many pictures had been drawn before.
    """
    await page.wait_for_function("() => Number(document.querySelector('#bar').max) > 1")
    script = """(positions) => {
        const bar = document.querySelector("#bar");
        for (const position of positions) {
            bar.value = position;
            bar.dispatchEvent(new Event("input", { bubbles: true }));
        }
        return (window.shown[document.querySelector("#enlarged-name").textContent] ?? []).length;
    }"""
    painted: int = await page.evaluate(script, positions)
    return painted


def make_film(path: Path, name: str, width: int = 640, seconds: int = 60) -> Path:
    """Makes a slow pan over a photograph, 16:9, ten frames a second, for screenshots. Its frames have no numbers."""
    photo = photograph(name)
    whole = cv2.resize(photo, (width, round(photo.shape[0] * width / photo.shape[1])))
    height = width * 9 // 16
    shifts = [*range(0, min(whole.shape[0] - height, 100), 2)]
    frames = b"".join(whole[shift : shift + height].tobytes() for shift in [*shifts, *reversed(shifts)])
    command = (
        f"ffmpeg -v error -f rawvideo -pix_fmt bgr24 -s {width}x{height} -r 10 -i - -vf loop=-1:32767 -c:v libx264"
    )
    command += f" -t {seconds} -preset ultrafast -g 10 -pix_fmt yuv420p -y {path}"
    subprocess.run(command.split(), input=frames, check=True, timeout=100)
    return path
