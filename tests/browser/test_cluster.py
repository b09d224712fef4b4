"""A tall picture in Chromium with a whole cluster, while one part after another dies.

Every slice is received once, each result can be fetched, and the page shows the true state of its connection.
"""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from playwright.async_api import Page

from tests.browser.chromium import console
from tests.browser.test_console import all_done, choose, done, picture, slow
from tests.support.cluster import Cluster, cluster_in
from tests.support.running import until
from tests.support.s3 import S3

# Guards against hanging. A slice may wait for parts that start on a busy machine, and then for its turn.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
_PATIENCE_MS = 120_000

# Records what the page shows about its connection, and each slice whenever it is shown as done.
_WATCH = """() => {
    const connection = document.querySelector("#connection");
    window.seen = { states: [connection.dataset.state], done: {} };
    new MutationObserver(() => seen.states.push(connection.dataset.state))
        .observe(connection, { attributeFilter: ["data-state"] });
    new MutationObserver((changes) => {
        const slices = [...document.querySelectorAll(".slice")];
        for (const { target } of changes) {
            const index = slices.indexOf(target);
            if (target.dataset.state === "done") seen.done[index] = (seen.done[index] ?? 0) + 1;
        }
    }).observe(document.querySelector("#sheet"), { attributeFilter: ["data-state"], subtree: true });
}"""
_ALL_SEEN = """() => [...document.querySelectorAll(".slice img")].every(
    (image) => image.complete && image.naturalWidth === 800)"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("cluster"), store=s3) as started:
        yield started


@dataclass
class Shown:
    """Chooses a picture and waits until some of its slices are done."""

    page: Page
    cluster: Cluster

    async def holder(self) -> str:
        """Returns the server of the picture: no other server has a connection, or a lost one that it has
        not noticed.
        """

        def holders() -> list[str]:
            servers = self.cluster.servers.items()
            return [name for name, server in servers if server.metric("sluice_connections")]

        await until(lambda: len(holders()) == 1)
        return holders()[0]

    async def states(self) -> list[str]:
        """Returns the states of the connection that the page has shown since the picture was chosen."""
        found: list[str] = await self.page.evaluate("seen.states")
        return [state for state, _ in itertools.groupby(found)]

    async def is_whole(self) -> None:
        """Waits until all slices are done. Fails when a slice was done twice, or its result cannot be fetched."""
        await all_done(self.page)
        slices = await self.page.locator(".slice").count()
        assert await self.page.evaluate("seen.done") == {str(index): 1 for index in range(slices)}
        orders = await self.page.locator(".slice").evaluate_all("all => all.map(slice => Number(slice.dataset.order))")
        assert sorted(orders) == list(range(1, slices + 1))
        assert await self.page.locator(".slice img").count() == slices
        await self.page.wait_for_function(_ALL_SEEN)
        await self.page.wait_for_selector("#connection[data-state=open]")

    async def was_lost(self) -> None:
        """Waits until the page has noticed the lost connection. It may have received all slices before."""
        await self.page.wait_for_function("() => seen.states.includes('waiting')")


@asynccontextmanager
async def on_its_way(cluster: Cluster, height: int = 5000) -> AsyncIterator[Shown]:
    await cluster.mended()
    async with console(cluster) as page:  # type: ignore[arg-type]
        page.set_default_timeout(_PATIENCE_MS)
        await slow(page)
        await page.evaluate(_WATCH)
        await choose(page, picture(height))
        await done(page, 2)
        yield Shown(page, cluster)


async def test_a_page_does_not_notice_a_killed_worker(cluster: Cluster) -> None:
    async with on_its_way(cluster) as shown:
        cluster.kill("worker-1")
        await shown.is_whole()
        assert await shown.states() == ["open"]


async def test_after_a_kill_of_the_server_the_page_continues_with_another(cluster: Cluster) -> None:
    async with on_its_way(cluster) as shown:
        cluster.kill(await shown.holder())
        await shown.was_lost()
        await shown.is_whole()
        states = await shown.states()
        assert states[:3] == ["open", "waiting", "connecting"]
        assert states[-1] == "open"


async def test_a_page_does_not_notice_a_new_configuration_of_nginx(cluster: Cluster) -> None:
    async with on_its_way(cluster) as shown:
        cluster.nginx.reload()
        await shown.is_whole()
        assert await shown.states() == ["open"]


async def test_after_a_restart_of_nginx_any_server_continues(cluster: Cluster) -> None:
    """The former server of the picture is alive. Another server may have the picture now."""
    async with on_its_way(cluster) as shown:
        cluster.nginx.stop()
        cluster.nginx.start()
        await shown.was_lost()
        await shown.is_whole()
        states = await shown.states()
        assert states[:3] == ["open", "waiting", "connecting"]
        assert states[-1] == "open"


async def test_redis_is_killed_and_started_again(cluster: Cluster) -> None:
    """Written events are kept, and other events wait in the servers."""
    async with on_its_way(cluster) as shown:
        cluster.kill("redis")
        cluster.start("redis")
        await shown.is_whole()
        assert "closed" not in await shown.states()


async def test_the_scheduler_is_killed_and_started_again(cluster: Cluster) -> None:
    """The servers keep accepted slices. The page stays connected and waits."""
    async with on_its_way(cluster) as shown:
        cluster.kill("scheduler")
        cluster.start("scheduler")
        await shown.is_whole()
        assert await shown.states() == ["open"]


@pytest.mark.slow
async def test_every_part_is_killed_in_turn_during_one_picture(cluster: Cluster) -> None:
    """Each part is killed twice, with a few slices in between. A part stays down until the test starts it again."""
    async with on_its_way(cluster, 30_000) as shown:
        for turn in range(2):
            for number, name in enumerate(["worker-2", "server", "redis", "scheduler", "nginx"], 1):
                if name == "nginx":
                    cluster.nginx.stop()
                    cluster.nginx.start()
                else:
                    cluster.kill(await shown.holder() if name == "server" else name)
                await cluster.mended()
                await done(shown.page, min(5 * (5 * turn + number), 55))
        await shown.is_whole()
        assert "closed" not in await shown.states()
