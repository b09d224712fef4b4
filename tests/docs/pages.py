"""Pages of another origin than the server's, like the pages of its users, for the JavaScript of the documentation."""

import asyncio
import threading
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from playwright.async_api import BrowserContext, ConsoleMessage, Page

from tests.support.ports import free_port
from tests.support.running import GUARD


class Pages(AbstractContextManager["Pages"]):
    """A web server on a loopback port of its own. ``pages``: path -> answer."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = pages.get(self.path)
                self.send_response(200 if text is not None else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Watched:
    """A page in a browser, with its errors: exceptions of scripts, and errors in the browser's console."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(f"{said.text} {said.location}") if _is_fault(said) else None)

    @classmethod
    async def open(cls, context: BrowserContext, url: str) -> "Watched":
        watched = cls(await context.new_page())
        await watched.page.goto(url)
        return watched

    async def shows(self, condition: str) -> None:
        """Waits until a JavaScript expression is true, and closes the page. Fails for any error on it."""
        end = time.monotonic() + GUARD
        # Not wait_for_function, because it compiles the expression on the page, which the console's policy forbids.
        while not await self.page.evaluate(condition):
            assert self.faults == []
            assert time.monotonic() < end, f"{condition} does not come true"
            await asyncio.sleep(0.05)
        await self.page.close()
        assert self.faults == []


def _is_fault(said: ConsoleMessage) -> bool:
    # Browsers request an icon of every site, and the page of an example has none.
    return said.type == "error" and not said.location["url"].endswith("/favicon.ico")
