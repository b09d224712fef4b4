"""The Jobs view in Chromium: a job continues without the page, and a page that returns shows all its events."""

import json
import signal
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import Proxy, console
from tests.browser.jobs import KINDS, PATIENCE, begin, jobs, last_line, lines, numbered, opened, saved_log, state
from tests.support.running import Server, Start, until

AT_END = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.querySelector("#job-log");
    return scrollHeight > clientHeight && scrollHeight - scrollTop - clientHeight < 2;
}"""


@pytest.fixture
def server(start_here: Start) -> Server:
    """A server for each test, because tests kill it or count its jobs."""
    return start_here(job_modules=KINDS)


async def test_after_closing_and_opening_the_page_the_log_is_complete(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with jobs(server) as page:
        id = await begin(page, "telling_on", gate=gate)
        await last_line(page, "line 60")
        await expect(page.locator("#job-stage")).to_have_text("waiting")
        await expect(page.locator("#job-count")).to_have_text("60 of 120 done")
    gate.touch()
    async with jobs(server) as page:
        await expect(page.locator("#job-list li")).to_have_count(1)
        await page.click("#job-list a")
        assert await opened(page) == id
        await state(page, "succeeded")
        assert await lines(page) == numbered(120)
        assert [line.rpartition(" one ")[2] for line in await saved_log(page) if " one " in line] == numbered(120)[::2]
        await expect(page.locator("#job-end h3")).to_have_text("Succeeded")
        await page.select_option("#job-log-of", "one")
        assert await lines(page) == numbered(120)[::2]


async def test_after_a_lost_connection_the_job_continues_where_it_was(server: Server, tmp_path: Path) -> None:
    sent: list[dict[str, object]] = []
    gate = tmp_path / "gate"
    async with (
        Proxy(server) as proxy,
        console(server, proxy.url, token=server.token("alice", "images jobs"), fragment="#jobs") as page,
    ):
        id = await begin(page, "telling_on", gate=gate)
        await last_line(page, "line 60")
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(json.loads(frame))))
        for _ in range(3):
            before = len(sent)
            await proxy.away(page)
            await expect(page.locator("#job-cancel")).to_be_enabled()
            await until(lambda before=before: any(each["type"] == "watch" for each in sent[before:]))
            asked = [each for each in sent[before:] if each["type"] == "watch"]
            assert [each["id"] for each in asked] == [id]
            assert asked[0]["after"] != 0, "the history was sent from its start again"
            assert asked[0]["epoch"]
        gate.touch()
        await state(page, "succeeded")
        assert await lines(page) == numbered(120)


@pytest.mark.chaos
async def test_a_job_whose_server_is_killed_is_shown_as_interrupted(start: Start, tmp_path: Path) -> None:
    server = start(job_modules=KINDS)
    async with jobs(server) as page:
        await begin(page, "telling_on", gate=tmp_path / "never")
        await last_line(page, "line 60")
        server.stop(signal.SIGKILL)
        await page.wait_for_selector("#connection[data-state=waiting]")
        start(port=server.port, job_modules=KINDS)
        await page.wait_for_selector("#connection[data-state=open]", timeout=PATIENCE)
        await state(page, "interrupted")
        assert await lines(page) == numbered(60)
        end = page.locator("#job-end")
        await expect(end.locator("h3")).to_have_text("Interrupted")
        await expect(end).to_contain_text("Unknown result of one target that was running: one.")
        await expect(page.locator("#targets button small")).to_have_text("unknown")
        await page.click("#targets button")
        await expect(page.locator("#target-state")).to_have_text("unknown: it was running when the job ended")
        await expect(page.locator("#job-retries button")).to_have_text(["Retry all 1 unfinished"])


async def test_a_job_is_cancelled_after_a_confirmation(server: Server) -> None:
    async with jobs(server) as page:
        await begin(page, "waiting")
        await expect(page.locator("#targets button")).to_have_count(3)
        await page.click("#job-cancel")
        await page.click("text=Keep it running")
        await state(page, "running")
        await page.click("#job-cancel")
        await page.click("text=Cancel the job")
        await state(page, "cancelled")
        await expect(page.locator("#job-end h3")).to_have_text("Cancelled")
        await expect(page.locator("#job-end")).to_contain_text("Unknown result of one target that was running: begun")
        await expect(page.locator("#job-lines .note")).to_contain_text(["alice cancels it", "cancelled"])
        await expect(page.locator("#job-cancel")).to_be_hidden()
        await expect(page.locator("#job-list .state")).to_have_text("cancelled")


async def test_a_job_with_a_question_waits_for_the_answer(server: Server) -> None:
    async with jobs(server) as page:
        await begin(page, "asking")
        await state(page, "waits for an answer")
        await expect(page.locator("#job-list .state")).to_have_text("waits for an answer")
        await expect(page.locator("#job-question")).to_have_text("Shall I?")
        await expect(page.locator("#job-asked")).to_contain_text("everywhere")
        await page.fill("#job-answer", "go on")
        await page.click("#job-approval button[value=yes]")
        await state(page, "succeeded")
        await expect(page.locator("#job-approval")).to_be_hidden()
        await expect(page.locator("#job-lines .note")).to_contain_text(["asks: Shall I?", "alice says yes: go on"])
        await begin(page, "asking")
        await state(page, "waits for an answer")
        await expect(page.locator("#job-answer")).to_have_value("")
        await page.fill("#job-answer", "not today")
        await page.click("#job-approval button[value=no]")
        await state(page, "failed")
        await expect(page.locator("#job-end")).to_contain_text("alice has refused: not today (refused)")


async def test_only_a_window_of_a_long_log_is_in_the_page(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with jobs(server) as page:
        await begin(page, "telling_on", before=3000, after=500, gate=gate)
        await last_line(page, "line 3000")
        # No more lines: lines that arrive before the page has noticed the scroll would move it back to the end.
        await expect(page.locator("#job-stage")).to_have_text("waiting")
        assert await shown(page) <= 600
        await expect(page.locator("#job-lines li").last).to_be_in_viewport()
        while (await lines(page))[0] != "line 1":
            first = (await lines(page))[0]
            await page.evaluate("document.querySelector('#job-log').scrollTop = 0")
            await expect(page.locator("#job-lines li:not(.note) span").first).not_to_have_text(first)
            assert await shown(page) <= 600
        await page.evaluate("document.querySelector('#job-log').scrollTop = 0")
        # A reader of earlier lines is informed of new ones, and the page does not move.
        gate.touch()
        await expect(page.locator("#job-log-end")).to_contain_text("more lines below")
        await state(page, "succeeded")
        await expect(page.locator("#job-lines span").nth(1)).to_be_in_viewport()
        assert (await lines(page))[0] == "line 1"
        await page.click("#job-log-end")
        await last_line(page, "line 3500")
        await expect(page.locator("#job-lines li").last).to_be_in_viewport()
        window = await lines(page)
        assert window == numbered(3500)[-len(window) :]
        said = [line.split(" ", 2)[2] for line in await saved_log(page) if " -- " not in line]
        assert said == numbered(3500)


async def test_a_log_that_grows_stays_at_its_end_and_within_its_window(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with jobs(server) as page:
        await begin(page, "telling_on", before=500, after=400, gate=gate)
        await last_line(page, "line 500")
        assert await lines(page) == numbered(500)
        gate.touch()
        await state(page, "succeeded")
        await last_line(page, "line 900")
        assert await shown(page) <= 600
        await page.wait_for_function(AT_END)
        window = await lines(page)
        assert window == numbered(900)[-len(window) :]


async def shown(page: Page) -> int:
    return await page.locator("#job-lines li").count()


async def test_a_log_that_was_cut_says_so(start_here: Start) -> None:
    server = start_here(job_modules=KINDS, job_log_bytes=20_000)
    async with jobs(server) as page:
        await begin(page, "loud", lines=1000)
        await state(page, "succeeded")
        await expect(page.locator("#job-lines .note").first).to_contain_text("the log is cut here")
        kept = await page.locator("#job-lines li:not(.note)").count()
        assert 0 < kept < 1000
        await expect(page.locator("#job-end")).to_contain_text(f"The log is incomplete: {1000 - kept} lines were not")


async def test_an_unknown_job_is_reported(server: Server) -> None:
    async with jobs(server, f"#jobs/{'0' * 27}") as page:
        await expect(page.locator("#job-missing")).to_contain_text("there is no job")
        await begin(page, "failing")
        await state(page, "failed")
        await expect(page.locator("#job-end")).to_contain_text("this job always fails (too_bad)")
        await expect(page.locator("#job-end")).to_contain_text("so far")


async def test_for_a_token_without_the_scope_the_page_asks_for_another(server: Server) -> None:
    async with console(server) as page:
        await page.click("nav[aria-label=Views] a[href='#jobs']")
        await expect(page.locator("#connection")).to_have_text("no access")
        await expect(page.locator("#scope")).to_have_text("jobs")
        await expect(page.locator("#entry")).to_be_visible()
