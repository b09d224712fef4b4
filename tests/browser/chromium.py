"""Chromium for the tests: one browser for all tests of a process, and a TCP proxy that can cut its connections.

Each test has its own context, without cookies, storage and pages of other tests. The fixture ``chromium`` ends the
browser after the last test. Tests that use it run in the event loop of the session, to which the connection to the
browser belongs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright, expect

from tests.support.running import Server

# Timeouts in milliseconds, only as a guard against hanging. Playwright's default of five seconds is too short for a
# busy machine. A page that has lost its server may wait for 22 s before it tries again.
PATIENCE = 90_000
expect.set_options(timeout=PATIENCE)

# Chromium without windows. The tests of the console take 36 s of CPU time with it, and 58 s with the full Chromium.
_PROGRAM = "/usr/lib/chromium/chromium-headless-shell"
SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# Widths in pixels and colour schemes: two that differ in both, and in `make test-all` the other two.
SCREENS = [
    (360, "light"),
    (1440, "dark"),
    pytest.param(360, "dark", marks=pytest.mark.slow),
    pytest.param(1440, "light", marks=pytest.mark.slow),
]


class Chromium:
    """The browser of this process, for tests that use the fixture ``chromium``.

    It is started when the first context is requested, and again after a crash.
    """

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    async def start(self) -> None:
        self._playwright = await async_playwright().start()

    async def launched(self) -> Browser:
        assert self._playwright, "this test does not use the fixture chromium"
        if self._browser is None or not self._browser.is_connected():
            chromium = self._playwright.chromium
            self._browser = await chromium.launch(executable_path=_PROGRAM, args=FLAGS, timeout=PATIENCE)
        return self._browser

    @asynccontextmanager
    async def context(self, **options: Any) -> AsyncIterator[BrowserContext]:
        context = await (await self.launched()).new_context(**options)
        context.set_default_timeout(PATIENCE)
        try:
            yield context
        finally:
            await context.close()

    async def close(self) -> None:
        if self._browser is not None:
            await self._browser.close()
        if self._playwright is not None:
            await self._playwright.stop()
        self._browser = self._playwright = None


BROWSER = Chromium()


@asynccontextmanager
async def console(
    server: Server,
    url: str = "",
    *,
    token: str | None = None,
    fragment: str = "",
    width: int = 1440,
    height: int = 900,
    **options: Any,
) -> AsyncIterator[Page]:
    """Opens the console with a token. Fails the test for an error on the page, or for a request to another host."""
    faults: list[str] = []
    base = url or server.url
    async with BROWSER.context(viewport={"width": width, "height": height}, **options) as context:
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if _ours(request.url, base) else faults.append(request.url))
        await page.goto(f"{base}/?token={token or server.token()}{fragment}")
        await page.wait_for_selector("#connection[data-state=open]")
        yield page
    assert faults == []


def _ours(url: str, base: str) -> bool:
    return url.startswith((base, base.replace("http", "ws"), "blob:", "data:"))


async def states(page: Page) -> list[str]:
    """Returns the state of every slice, from top to bottom."""
    found: list[str] = await page.evaluate("[...document.querySelectorAll('.slice')].map(s => s.dataset.state)")
    return found


async def order(page: Page) -> list[int]:
    """Returns the indexes of the slices in the order in which they were done."""
    script = "[...document.querySelectorAll('.slice')].map((s, i) => [Number(s.dataset.order), i])"
    numbered: list[list[int]] = await page.evaluate(script)
    return [index for number, index in sorted(map(tuple, numbered)) if number]


class Proxy:
    """A proxy that passes bytes to the server. ``cut`` ends every connection silently.

    While it is ``deaf``, it drops the server's bytes. While it is ``shut``, it closes new connections immediately.
    """

    deaf = shut = False

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut = True
        self._listening.close()
        while self._tasks:  # also closes a connection that was just accepted
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def away(self, page: Page) -> None:
        """Cuts all connections and refuses new ones until the page says that it waits. Then waits until the page is
        connected.
        """
        self.shut = True
        self.cut()
        await page.wait_for_selector("#connection[data-state=waiting]")
        self.shut = False
        await page.wait_for_selector("#connection[data-state=open]")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepting = asyncio.current_task()
        assert accepting
        self._tasks.add(accepting)
        accepting.add_done_callback(self._tasks.discard)
        if self.shut:
            return writer.transport.abort()
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return writer.transport.abort()
        if self.shut:
            ours.transport.abort()
            return writer.transport.abort()
        self._writers |= {writer, ours}
        for source, sink, is_answer in ((reader, ours, False), (theirs, writer, True)):
            task = asyncio.create_task(self._pass_on(source, sink, is_answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_answer: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                if not (self.deaf and is_answer):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.close()
