"""A server is killed under a page. The page reconnects by itself, and every slice ends once."""

import signal

import pytest

from tests.browser.chromium import console, order
from tests.browser.test_console import all_done, choose, done, picture, slow
from tests.support.running import Start

pytestmark = pytest.mark.chaos


async def test_a_page_continues_after_a_kill_of_the_server(start: Start) -> None:
    """The session is lost, and the page is informed. Without #resend in sluice.js this fails: slices in progress are
    lost.
    """
    server = start()
    async with console(server) as page:
        await slow(page)
        await choose(page, picture())
        await done(page, 3)
        server.stop(signal.SIGKILL)
        await page.wait_for_selector("#connection[data-state=waiting]")
        start(port=server.port)
        await page.wait_for_selector("#connection[data-state=open]")
        await all_done(page)
        assert sorted(await order(page)) == list(range(20))
