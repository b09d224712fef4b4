"""The form that starts a job: it is created from the kind's schema, shows the server's errors, and starts a
job once.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, WebSocketRoute, expect

from tests.browser.chromium import Proxy, console
from tests.browser.jobs import KINDS, PATIENCE, begin, jobs, opened, state
from tests.browser.rooms import drop
from tests.support.pictures import encoded, tall
from tests.support.running import Server, Start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bounds: dict[str, Any] = {"connections_per_user": 100, "connections_per_address": 100, "jobs_running_per_user": 50}
    running = Server(tmp_path_factory.mktemp("jobs"), job_modules=KINDS, jobs_running=50, **bounds)
    yield running
    running.stop()


async def given(page: Page) -> dict[str, object]:
    """Returns the parameters of the job of the kind ``form``, as the server has parsed them."""
    await state(page, "succeeded")
    text = await page.locator("#job-end .facts dd").inner_text()
    found: dict[str, object] = json.loads(text)
    return found


async def params(page: Page) -> dict[str, object]:
    """Returns the parameters that the form has sent."""
    found: dict[str, object] = json.loads(await page.locator("#job-params pre").text_content() or "")
    return found


async def test_each_type_of_parameter_has_its_field(server: Server) -> None:
    async with jobs(server, "#jobs/new/form") as page:
        form = page.locator("#job-form")
        await expect(page.locator("#job-help")).to_have_text("Reports its parameters in everything.")
        await expect(form.locator("[name=names]")).to_have_value("a\nb")
        await form.locator("[name=title]").fill("a title")
        await form.locator("[name=copies]").fill("3")
        await form.locator("[name=colour]").select_option("blue")
        await form.locator("[name=loud]").uncheck()
        await form.locator("[name=numbers]").fill("1\n\n2")
        await form.locator("[name=width]").fill("640")
        await form.locator("[name=values]").fill('count: 14\nversion: 1.4\nquoted: "14"\nyes: true\nempty:')
        await page.click("#job-start")
        await opened(page)
        values = {"count": 14, "version": "1.4", "quoted": "14", "yes": True, "empty": ""}
        assert await given(page) == {
            "title": "a title",
            "copies": 3,
            "ratio": 0.5,
            "colour": "blue",
            "loud": False,
            "names": ["a", "b"],
            "numbers": [1, 2],
            "limit": None,
            "size": {"width": 640, "height": 20},
            "values": values,
        }
        # Unchanged fields are not sent, so the server's defaults apply. A number is sent as a number.
        assert set(await params(page)) == {"title", "copies", "colour", "loud", "numbers", "size", "values"}
        assert (await params(page))["numbers"] == [1, 2]
        await page.click("#job-like")
        await expect(form.locator("[name=title]")).to_have_value("a title")
        await expect(form.locator("[name=width]")).to_have_value("640")
        await expect(form.locator("[name=loud]")).not_to_be_checked()
        await expect(form.locator("[name=values]")).to_have_value(
            'count: 14\nversion: "1.4"\nquoted: "14"\nyes: true\nempty: '
        )
        await form.locator("[name=names]").fill("")
        await form.locator("[name=limit]").fill("0")
        await page.click("#job-start")
        await opened(page)
        again = await given(page)
        assert (again["names"], again["limit"], again["values"], again["title"]) == ([], 0, values, "a title")


async def test_each_error_is_shown_at_its_field(server: Server) -> None:
    async with jobs(server, "#jobs/new/form") as page:
        await page.fill("#job-form [name=copies]", "many")
        await page.fill("#job-form [name=ratio]", "0")
        await page.fill("#job-form [name=numbers]", "1\ntwo")
        await page.fill("#job-form [name=height]", "6000")
        await page.fill("#job-form [name=limit]", "-1")
        await page.click("#job-start")
        wrong = {
            "title": "Field required",
            "copies": "valid integer",
            "ratio": "greater than 0",
            "numbers": "item 2: Input should be a valid integer",
            "height": "less than or equal to 5000",
            "limit": "greater than or equal to 0",
        }
        for name, words in wrong.items():
            input = page.locator(f"#job-form [name={name}]")
            await expect(input).to_have_attribute("aria-invalid", "true")
            await expect(page.locator(f"#{(await input.get_attribute('id'))}-fault")).to_contain_text(words)
        await expect(page.locator("#job-form [aria-invalid=true]")).to_have_count(len(wrong))
        await expect(page.locator("#job-form [name=title]")).to_be_focused()
        # Errors of the whole form are shown above it, and corrected fields show no error any more.
        await page.fill("#job-form [name=title]", "wrong")
        for name, value in {"copies": "2", "ratio": "1", "numbers": "", "height": "60", "limit": ""}.items():
            await page.fill(f"#job-form [name={name}]", value)
        await page.click("#job-start")
        await expect(page.locator("#job-faults")).to_have_text("this title and these copies do not go together")
        await expect(page.locator("#job-faults")).to_be_focused()
        await expect(page.locator("#job-form [aria-invalid=true]")).to_have_count(0)
        await expect(page.locator("#job-form [name=title]")).to_have_value("wrong")


async def test_a_batch_of_uploads_shows_its_contact_sheet(server: Server) -> None:
    picture = encoded(tall(240), ".jpg", 85)
    files = [{"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": picture} for number in range(8)]
    async with jobs(server, "#jobs/new/batch") as page:
        await page.click("#job-start")
        await expect(page.locator("#job-faults")).to_have_text("set one of folder, zip and uploads")
        await page.set_input_files("#job-form [name=uploads]", files)
        await drop(page, picture)
        done = page.locator("#job-form .attached [data-state=done]")
        await expect(done).to_have_count(9, timeout=PATIENCE)
        await drop(page, b"words", "words.txt", "text/plain")
        await expect(page.locator("#job-faults")).to_have_text("This job takes no words.txt.")
        await page.click("#job-form .attached button[aria-label='Remove 0.jpg']")
        await page.select_option("#job-form select[name=action]", "sharpen")
        await page.fill("#job-form .options [name=amount]", "2")
        await page.click("#job-start")
        await opened(page)
        await state(page, "succeeded")
        sent = await params(page)
        assert sent["action"] == "sharpen"
        assert sent["options"]["amount"] == 2  # type: ignore[index]
        assert len(set(sent["uploads"])) == 8  # type: ignore[call-overload]
        await expect(page.locator("#targets-states button[value=ok]")).to_have_text("8 ok")
        sheet = page.locator(".job-result img")
        await expect(sheet).not_to_have_js_property("naturalWidth", 0)
        assert await sheet.evaluate("(image) => image.naturalWidth") > 100
        names = await page.locator(".job-files a").all_inner_texts()
        assert names == ["table.csv", "table.json", "results.zip", "sheet-1.jpg"]
        async with page.expect_download() as download:
            await page.click(".job-files a:text-is('table.csv')")
        table = Path(await (await download.value).path()).read_text()
        assert table.count('"ok"') == 8
        assert all(f',"{number}.jpg","ok","{number}.jpg",' in table for number in range(1, 8)), table
        await sheet.click()
        await expect(page.locator("#whole img")).to_be_visible()


async def test_values_stay_when_the_list_of_actions_arrives(server: Server) -> None:
    """Waits until the list of actions is known. It arrives on another connection, which may be slower."""
    known = asyncio.Event()

    async def connect(route: WebSocketRoute) -> None:
        await known.wait()
        route.connect_to_server()

    async with jobs(server) as other:
        page = await other.context.new_page()
        page.set_default_timeout(PATIENCE)
        await page.route_web_socket("**/ws/images", connect)
        await page.goto(f"{server.url}/#jobs/new/batch")
        picture = {"name": "one.jpg", "mimeType": "image/jpeg", "buffer": encoded(tall(240), ".jpg", 85)}
        await page.set_input_files("#job-form [name=uploads]", picture)
        done = page.locator("#job-form .attached [data-state=done]")
        await expect(done).to_have_count(1, timeout=PATIENCE)
        await page.fill("#job-form input[name=action]", "sharpen")
        await page.fill("#job-form textarea[name=options]", "amount: 2")
        known.set()
        await expect(page.locator("#job-form select[name=action]")).to_have_value("sharpen")
        await expect(page.locator("#job-form .options [name=amount]")).to_have_value("2")
        await page.click("#job-start")
        await opened(page)
        sent = await params(page)
        assert (sent["action"], sent["options"]["amount"]) == ("sharpen", 2)  # type: ignore[index]
        assert len(sent["uploads"]) == 1  # type: ignore[arg-type]


async def test_the_result_of_an_uploaded_film_can_be_played(server: Server, clip: Path) -> None:
    async with jobs(server, "#jobs/new/film") as page:
        await page.set_input_files("#job-form [name=upload]", clip)
        await expect(page.locator("#job-form .attached [data-state=done]")).to_have_count(1, timeout=PATIENCE)
        await page.fill("#job-form [name=every]", "25")
        await page.fill("#job-form [name=width]", "160")
        await page.click("#job-start")
        await opened(page)
        await state(page, "succeeded")
        film = page.locator(".job-result video")
        await expect(film).to_have_js_property("videoWidth", 160)
        assert await film.evaluate("(film) => film.duration") > 0


async def test_a_refused_file_is_reported_and_nothing_starts_without_it(server: Server) -> None:
    async with jobs(server, "#jobs/new/batch") as page:
        bad = {"name": "bad.jpg", "mimeType": "image/jpeg", "buffer": b"<p>not a picture</p>"}
        await page.set_input_files("#job-form [name=uploads]", bad)
        failed = page.locator("#job-form .attached [data-state=failed]")
        await expect(failed).to_contain_text("bad.jpg", timeout=PATIENCE)
        await page.click("#job-start")
        await expect(page.locator("#job-faults")).to_contain_text("1 could not be uploaded")
        await failed.locator("button[aria-label^=Remove]").click()
        await page.click("#job-start")
        await expect(page.locator("#job-faults")).to_have_text("set one of folder, zip and uploads")


async def test_a_job_is_started_once_even_if_its_answer_was_lost(server: Server) -> None:
    token = server.token("carol", "images jobs")
    async with Proxy(server) as proxy, console(server, proxy.url, token=token, fragment="#jobs/new/counting") as page:
        await page.fill("#job-form [name=steps]", "3")
        async with page.expect_event("websocket") as following:
            proxy.deaf = True
            await page.click("#job-start")
            await started(server, token)
            proxy.cut()
            proxy.deaf = False
        await following.value
        await opened(page)
        await state(page, "succeeded")
        await expect(page.locator("#job-list li")).to_have_count(1)


async def started(server: Server, token: str) -> None:
    """Waits until the server has received it."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        while not (await client.get(f"{server.url}/jobs")).json()["jobs"]:
            pass


async def test_a_job_beyond_the_limit_is_reported_and_can_be_tried_again(start_here: Start) -> None:
    server = start_here(job_modules=KINDS, jobs_running_per_user=1)
    async with jobs(server) as page:
        first = await begin(page, "waiting")
        await page.click("#job-kinds a:text-is('counting')")
        await page.fill("#job-form [name=steps]", "7")
        await page.click("#job-start")
        await expect(page.locator("#job-faults")).to_contain_text("jobs_running_per_user")
        await expect(page.locator("#job-form [name=steps]")).to_have_value("7")
        await page.goto(f"{server.url}/#jobs/{first}")
        await page.click("#job-cancel")
        await page.click("text=Cancel the job")
        await state(page, "cancelled")
        await page.click("#job-kinds a:text-is('counting')")
        await page.fill("#job-form [name=steps]", "7")
        # The event of a job's end is sent a moment before the server accepts another job.
        while await refused(page):
            pass
        await opened(page)
        await state(page, "succeeded")
        await expect(page.locator("#job-count")).to_have_text("7 of 7 done")


async def refused(page: Page) -> bool:
    """Returns whether the job of the form is refused."""
    await page.click("#job-start")
    await page.wait_for_function("() => document.querySelector('#job-start').textContent === 'Start'")
    return await page.locator("#job-faults").is_visible()
