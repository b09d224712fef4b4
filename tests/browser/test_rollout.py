"""A rollout on twenty real hosts in Chromium: started, the page closed and opened again, and no event is missing."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.chromium import SCREENSHOTS
from tests.browser.jobs import begin, jobs, saved_log, state
from tests.support.rollouts import plan, serve_rollouts
from tests.support.running import Start
from tests.support.sshd import Fleet, sshd

pytestmark = pytest.mark.chaos

HOSTS = [f"web{number}" for number in range(1, 21)]


async def test_a_rollout_on_twenty_hosts_continues_without_its_page(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    folder.mkdir()
    fleet = Fleet(folder)
    gate = folder / "gate"
    work = f'echo "hello $host"; until test -e {gate}; do sleep 0.1; done; echo "done $host"'
    with sshd(fleet, *HOSTS[:10]), sshd(fleet, *HOSTS[10:]):  # one sshd listens on at most sixteen ports
        step = f"{{name: work, command: '{work}', timeout: 100}}"
        server = serve_rollouts(start, fleet, plan(step, stage="forks: 20"))
        async with jobs(server) as page:
            id = await begin(page, "rollout", plan="update")
            await expect(page.locator("#job-lines")).to_contain_text("hello web")
        gate.touch()
        async with jobs(server, f"#jobs/{id}") as page:
            await state(page, "succeeded")
            log = await saved_log(page)
            said = [line for host in HOSTS for line in log if line.endswith((f"hello {host}", f"done {host}"))]
            assert len(said) == len(set(said)) == 40, log
            await expect(page.locator("#targets [data-state=changed]")).to_have_count(20)
            await page.screenshot(path=SCREENSHOTS / "rollout-twenty.png")
