"""The Jobs view in Chromium: many targets, many jobs, and a layout that fits the screen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import SCREENS, SCREENSHOTS
from tests.browser.jobs import KINDS, PATIENCE, begin, jobs, last_line, lines, opened, state
from tests.support.pictures import encoded, tall
from tests.support.running import Server

# Elements that are wider than their place and are neither scrolled nor cut.
TOO_WIDE = """() => [...document.querySelectorAll("#jobs-view *")]
    .filter((each) => each.clientWidth && each.scrollWidth > each.clientWidth + 1)
    .filter((each) => getComputedStyle(each).overflowX === "visible").map((each) => each.cloneNode().outerHTML)"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bounds: dict[str, Any] = {"connections_per_user": 100, "connections_per_address": 100, "jobs_running_per_user": 100}
    running = Server(tmp_path_factory.mktemp("jobs"), job_modules=KINDS, jobs_running=100, **bounds)
    yield running
    running.stop()


async def test_two_hundred_targets_are_shown_by_colour_and_by_word(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cells = "#targets button"
    async with jobs(server) as page:
        await begin(page, "fleet", gate=gate)
        await expect(page.locator("#targets-states button")).to_have_text(
            ["200 in all", "1 running", "10 failed", "10 unreachable", "99 not started", "40 changed", "40 ok"],
            timeout=PATIENCE,
        )
        await expect(page.locator(cells)).to_have_count(200)
        await expect(page.locator(f"{cells} >> nth=100")).to_have_text("web101.example.orgrunning")
        gate.touch()
        await state(page, "succeeded")
        for ended, count in {"ok": 80, "changed": 80, "failed": 20, "unreachable": 20}.items():
            await expect(page.locator(f"{cells}[data-state={ended}]")).to_have_count(count)
        words = await page.locator(f"{cells} small").all_inner_texts()
        assert {word: words.count(word) for word in words} == {"ok": 80, "changed": 80, "failed": 20, "unreachable": 20}
        await page.click("#targets-states button[value=failed]")
        await expect(page.locator(cells)).to_have_count(20)
        red, green = [await colour(page, state) for state in ("failed", "ok")]
        assert red != green
        await page.click("#targets-states button[value='']")
        await expect(page.locator(cells)).to_have_count(200)
        await page.fill("#targets-find", "web18")
        await expect(page.locator(cells)).to_have_count(11)
        await page.fill("#targets-find", "")


async def colour(page: Page, state: str) -> str:
    """Returns the colour of the first cell in this state."""
    await page.click(f"#targets-states button[value={state}]")
    cell = page.locator(f"#targets button[data-state={state}] >> nth=0")
    found: str = await cell.evaluate("(cell) => getComputedStyle(cell).borderLeftColor")
    return found


async def test_the_output_and_the_lines_of_a_target_are_shown(server: Server) -> None:
    async with jobs(server) as page:
        await begin(page, "fleet", hosts=40)
        await state(page, "succeeded")
        await page.click("#targets button[value='web8.example.org']")
        await expect(page.locator("#target-name")).to_have_text("web8.example.org")
        await expect(page.locator("#target-state")).to_have_text("failed")
        await expect(page.locator("#target-output")).to_have_text("Unpacking on web8.example.org ...\ndone")
        await expect(page.locator("#target-facts")).to_contain_text("unpack: exit status 1")
        await expect(page.locator("#target-steps li")).to_have_text(["fetch: ok (exit 0)", "unpack: failed (exit 1)"])
        assert await lines(page) == ["Unpacking sluice (1.4) on web8.example.org ..."]
        # The grid has one tab stop. The arrow keys move in it.
        assert await page.locator("#targets button[tabindex='0']").count() == 1
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Enter")
        await expect(page.locator("#target-name")).to_have_text("web9.example.org")
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await expect(page.locator("#target-name")).to_have_text("web1.example.org")
        await page.click("#target-close")
        await expect(page.locator("#targets button[value='web1.example.org']")).to_be_focused()
        await last_line(page, "Unpacking sluice (1.4) on web40.example.org ...")


async def test_failed_targets_are_retried(server: Server) -> None:
    async with jobs(server) as page:
        first = await begin(page, "fleet", hosts=40)
        await state(page, "succeeded")
        buttons = page.locator("#job-retries button")
        await expect(buttons).to_have_text(["Retry 4 failed", "Retry 4 unreachable", "Retry all 8 unfinished"])
        await buttons.nth(2).click()
        await page.wait_for_function("(first) => !location.hash.endsWith(first)", arg=first)
        await opened(page)
        await state(page, "succeeded")
        await expect(page.locator("#targets-states button")).to_have_text(["8 in all", "8 ok"])
        await expect(page.locator("#job-retries button")).to_have_count(0)
        await page.click("text=a retry of this one")
        await expect(page.locator("#targets-states button").first).to_have_text("40 in all")


async def test_the_list_shows_own_jobs_and_loads_older_ones(server: Server) -> None:
    for name, count in (("dora", 35), ("emil", 2)):
        headers = {"Authorization": f"Bearer {server.token(name, 'jobs')}"}
        async with httpx.AsyncClient(headers=headers) as client:
            for number in range(count):
                kind = "failing" if number == 0 else "counting"
                asked = {"job": kind, "params": {"steps": 1} if number else {}, "client_id": f"{number}"}
                (await client.post(f"{server.url}/jobs", json=asked)).raise_for_status()
    items = "#job-list li"
    async with jobs(server, name="dora") as page:
        await expect(page.locator(items)).to_have_count(30)
        await expect(page.locator("#jobs-whose")).to_be_hidden()
        await page.click("#jobs-older")
        await expect(page.locator(items)).to_have_count(35)
        await expect(page.locator("#jobs-older")).to_be_hidden()
        await expect(page.locator(items).last).to_contain_text("failing")
        await page.select_option("#jobs-state", "failed")
        await expect(page.locator(items)).to_have_count(1)
        await page.select_option("#jobs-state", "interrupted")
        await expect(page.locator("#jobs-none")).to_have_text("No job is interrupted.")
    async with jobs(server, name="root", scope="images jobs admin") as page:
        await expect(page.locator("#jobs-none")).to_have_text("None yet.")
        await page.select_option("#jobs-filter", "all")
        await expect(page.locator(items)).to_have_count(30)
        await expect(page.locator(items).first).to_contain_text("emil")
        await page.locator(items).first.click()
        await expect(page.locator("#job-facts")).to_contain_text("Started by emil")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
async def test_the_jobs_fit_the_screen(server: Server, tmp_path: Path, width: int, scheme: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)

    async def shoot(page: Page, name: str) -> None:
        await page.screenshot(path=SCREENSHOTS / f"jobs-{width}-{scheme}-{name}.png", full_page=width < 1000)
        assert await page.evaluate("document.scrollingElement.scrollWidth") <= width, name
        assert await page.evaluate(TOO_WIDE) == [], name

    name = f"{scheme}{width}"
    options: dict[str, Any] = {"width": width, "height": 900, "color_scheme": scheme}
    async with jobs(server, name=name, scope="images jobs admin", **options) as page:
        await page.evaluate("location.hash = '#jobs/new/form'")
        await page.fill("#job-form [name=copies]", "many")
        await page.click("#job-start")
        await expect(page.locator("#job-form [name=copies]")).to_have_attribute("aria-invalid", "true")
        await shoot(page, "form")
        await page.evaluate("location.hash = '#jobs/new/batch'")
        picture = encoded(tall(300), ".jpg", 85)
        files = [{"name": f"page {n}.jpg", "mimeType": "image/jpeg", "buffer": picture} for n in range(6)]
        await page.set_input_files("#job-form [name=uploads]", files)
        await expect(page.locator(".attached [data-state=done]")).to_have_count(6, timeout=PATIENCE)
        await shoot(page, "batch-form")
        await page.click("#job-start")
        await opened(page)
        await state(page, "succeeded")
        await expect(page.locator(".job-result img")).to_have_js_property("complete", True)
        await shoot(page, "batch")
        await show(page, "fleet")
        await page.fill("#job-form [name=gate]", str(tmp_path / "gate"))
        await page.click("#job-start")
        await opened(page)
        await expect(page.locator("#targets-states button[value=not_started]")).to_have_text(
            "99 not started", timeout=PATIENCE
        )
        await page.click("#targets button[value='web8.example.org']")
        await page.evaluate("scrollTo(0, 0)")
        await shoot(page, "running")
        await page.click("#job-cancel")
        await page.screenshot(path=SCREENSHOTS / f"jobs-{width}-{scheme}-sure.png")
        await page.click("text=Cancel the job")
        await state(page, "cancelled")
        await shoot(page, "cancelled")
        await show(page, "asking")
        await page.click("#job-start")
        await opened(page)
        await state(page, "waits for an answer")
        await shoot(page, "asking")
        await page.evaluate("location.hash = '#jobs'")
        await expect(page.locator("#job-list li")).to_have_count(3)
        await shoot(page, "list")
        await page.evaluate("history.back()")
        await page.click("#job-approval button[value=no]")
        await state(page, "failed")


async def show(page: Page, kind: str) -> None:
    await page.evaluate("(kind) => { location.hash = `#jobs/new/${kind}`; }", kind)
    await expect(page.locator("#job-new-name")).to_have_text(kind)
