"""Helpers for the tests of the Jobs view: a browser that shows it, and the actions of a user."""

import re
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from tests.browser.chromium import console
from tests.support.running import Server

KINDS = "tests.browser.kinds_of_jobs,tests.support.kinds_of_jobs"
# Time limit for anything that a job does.
PATIENCE = 120_000


def jobs(
    server: Server, fragment: str = "#jobs", name: str = "alice", scope: str = "images jobs", **options: Any
) -> Any:
    """Opens the Jobs view in a browser of this user."""
    return console(server, token=server.token(name, scope), fragment=fragment, **options)


async def begin(page: Page, kind: str, **params: object) -> str:
    """Starts a job with the form and returns its id."""
    await page.click(f"#job-kinds a:text-is('{kind}')")
    await expect(page.locator("#job-new-name")).to_have_text(kind)
    for name, value in params.items():
        await page.fill(f"#job-form [name={name}]", str(value))
    await page.click("#job-start")
    return await opened(page)


async def opened(page: Page) -> str:
    """Returns the id of the job that is shown, as soon as there is one."""
    await expect(page.locator("#job-known")).to_be_visible()
    await page.wait_for_function(r"() => /^#jobs\/[0-9a-f]{27}$/.test(location.hash)")
    found = re.search(r"#jobs/(\w+)", page.url)
    assert found
    return found[1]


async def state(page: Page, expected: str) -> None:
    await expect(page.locator("#job-state")).to_have_text(expected, timeout=PATIENCE)


async def lines(page: Page) -> list[str]:
    """Returns the lines of the job's log in the page, without the notes that the page adds."""
    return await page.locator("#job-lines li:not(.note) span").all_inner_texts()


async def last_line(page: Page, text: str) -> None:
    await expect(page.locator("#job-lines li:not(.note) span").last).to_have_text(text, timeout=PATIENCE)


async def saved_log(page: Page) -> list[str]:
    """Returns the lines of the saved log file."""
    async with page.expect_download() as download:
        await page.click("#job-log-save")
    path = await (await download.value).path()
    return Path(path).read_text().splitlines()


def numbered(last: int) -> list[str]:
    return [f"line {number}" for number in range(1, last + 1)]
