"""A cluster works as one service: its servers can be restarted one after the other, or killed, and no client loses
anything.

A client sees no error. It only sees the close code 1012, after which it resumes, and temporary errors, after which it
sends the slice again.
"""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen

import httpx
import pytest
import websockets

from tests.handlers.test_images_order import BAND, inversions, offsets, send_shuffled
from tests.reliability.resuming import Resuming
from tests.support.chats import Chatter
from tests.support.client import Client
from tests.support.cluster import Cluster, cluster_in
from tests.support.pictures import decoded, small
from tests.support.running import until
from tests.support.watchers import KINDS, Watcher, events_in

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

# Number of slices that the scheduler has when all threads are busy: one for each of the three workers, and half of that
# number in advance (queue_ahead), rounded up.
HAD = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # The long lease lets a server pause for some seconds without losing its jobs.
    settings = {"messages_per_second": 10_000, "job_modules": KINDS, "job_lease": 15}
    with cluster_in(tmp_path_factory.mktemp("cluster"), **settings) as started:
        yield started


@contextmanager
def frozen(workers: "Iterable[Popen[bytes]]") -> Iterator[None]:
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


async def fetched(cluster: Cluster, client: Resuming) -> None:
    """Checks that every result can be fetched through nginx, which chooses any of the servers."""
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as http:
        for result in client.results.values():
            assert (await http.get(httpx.URL(result["url"]).path)).status_code == 200


class Rolling:
    """Counts the restarts that have started, and those that are complete: the server is ready again and all workers are
    connected.
    """

    begun = over = 0

    def __init__(self) -> None:
        self.done = asyncio.Event()


async def asked(cluster: Cluster, rolling: Rolling, method: str, path: str) -> Counter[str]:
    """Sends one request after the other, and returns the number of each answer.

    nginx repeats a failed request on the other server. An answer is not counted when two restarts ran during the
    request, because nginx may then have tried both servers without success.
    """
    answers: Counter[str] = Counter()
    bearer = {"Authorization": f"Bearer {cluster.token('asking')}"}
    content = small() if method == "POST" else None
    async with httpx.AsyncClient(base_url=cluster.url, headers=bearer, timeout=120) as http:
        while not rolling.done.is_set():
            over = rolling.over
            answer = await http.request(method, path, content=content)
            if rolling.begun - over > 1:
                continue
            if answer.status_code == 200 and method == "POST":
                assert decoded(answer.content).shape == (64, 128, 3)
            answers["200" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"] += 1
    return answers


async def roll(cluster: Cluster, rolling: Rolling, rounds: int) -> None:
    """Stops and starts each server. Continues with the next one when the cluster is complete again."""
    for name in [*cluster.servers] * rounds:
        rolling.begun += 1
        assert await asyncio.to_thread(cluster.stop, name) == 0
        await asyncio.to_thread(cluster.start, name)
        await until(cluster.whole, 120)
        rolling.over += 1
    rolling.done.set()


async def rollout(cluster: Cluster, clients: int, rounds: int) -> None:
    await cluster.mended()
    rolling = Rolling()
    run = secrets.token_hex(4)
    under_load = [Resuming(cluster, f"{run}-{number}") for number in range(clients)]
    # The clients send slices until the last server has been restarted.
    loads = [asyncio.create_task(client.work(range(20), rolling.done)) for client in under_load]
    await until(lambda: all(client.results for client in under_load))
    requests = [("GET", "/healthz"), *[("POST", "/process")] * 4]
    asking = [asyncio.create_task(asked(cluster, rolling, *request)) for request in requests]
    await roll(cluster, rolling, rounds)
    await asyncio.gather(*loads)
    for answers in asking:
        assert set(await answers) <= {"200"}
    for client in under_load:
        assert client.faults == []
        # 1006: the client was too busy to read the close frame (1012) in the 2 s for which the server waits.
        assert set(client.closes) <= {1006, 1012}
        assert set(client.temporary) <= {"busy", "cancelled"}
        assert client.resumed[False] == 0
        await fetched(cluster, client)
        assert client.closes.total() > 0, "every server was restarted, so every client lost a connection"


async def test_in_a_rolling_restart_no_client_sees_an_error(cluster: Cluster) -> None:
    """Each client is connected to a server that restarts at least once in a round."""
    await rollout(cluster, 6, 1)


@pytest.mark.slow
async def test_in_many_rolling_restarts_no_client_sees_an_error(cluster: Cluster) -> None:
    await rollout(cluster, 40, 5)


async def test_results_arrive_in_the_order_of_a_viewport_that_moves(cluster: Cluster) -> None:
    """Two of three workers are stopped, so that all slices end in one order. Slices that the scheduler already has when
    the viewport moves are processed first.
    """
    await cluster.mended()
    free, *held = cluster.workers.values()
    tops = [number * BAND for number in range(120)]
    viewport = (100 * BAND, 4 * BAND)
    before = cluster.done()
    async with await Client.connect(cluster) as client:  # type: ignore[arg-type]
        with frozen(held), frozen([free]):
            await send_shuffled(client, tops)
            await until(lambda: cluster.busy() == HAD)
            free.send_signal(signal.SIGCONT)
            early = offsets(await client.ends(40))
            free.send_signal(signal.SIGSTOP)
            await client.send("viewport", top=viewport[0], height=viewport[1])
            # its error arrives after the server has processed the viewport message
            await client.send("cancel", id="unknown")
            while (message := await client.receive())["type"] != "error":
                early += offsets([message]) if message["type"] == "result" else []
            # Results that were finished by then may still be on their way through Redis.
            while len(early) < cluster.done() - before:
                early += offsets(await client.ends(1))
            free.send_signal(signal.SIGCONT)
            late = offsets(await client.ends(len(tops) - len(early) - len(held)))
        rest = offsets(await client.ends(len(held)))
    assert sorted(early + late + rest) == tops
    assert inversions(early) <= cluster.threads
    assert inversions(late, viewport) <= cluster.threads


async def test_an_acknowledged_message_is_stored_after_a_kill(cluster: Cluster) -> None:
    """Kills the server that stored a message, and then Redis. Clients must find all messages, on each server."""
    await cluster.mended()
    one, other = cluster.servers.values()
    room = secrets.token_hex(4)
    async with await Chatter.enter(other, "bob") as bob, await Chatter.enter(other, "carol") as carol:
        await bob.join(room)
        await carol.join(room)
        async with await Chatter.enter(one, "alice") as alice:
            joined = await alice.join(room)
            assert await alice.say("before the server", room=room) == 1
            cluster.kill("server-1")
        assert await carol.say("before Redis", room=room) == 2
        assert await bob.hear(2) == [(1, "before the server"), (2, "before Redis")]
        cluster.kill("redis")
        cluster.start("redis")
        await until(lambda: httpx.get(f"{other.url}/readyz").status_code == 200)
        async with await Chatter.enter(cluster, "alice") as alice:  # type: ignore[arg-type]
            assert (await alice.join(room, after=1, epoch=joined["epoch"]))["recovered"]
            assert await alice.hear(1) == [(2, "before Redis")]
            assert await alice.say("after", room=room) == 3
        with suppress(websockets.ConnectionClosed):
            # The server closes a client with 1012 when Redis is away for more than 5 s. The client then reconnects.
            # This test does not check that.
            assert await bob.hear(1) == [(3, "after")]


async def test_a_job_of_one_server_is_watched_from_another_and_the_cluster_processes_its_tasks(
    cluster: Cluster,
) -> None:
    await cluster.mended()
    one, other = cluster.servers.values()
    async with await Watcher.enter(one) as starter, await Watcher.enter(other) as watcher:
        id = await starter.start("working", tasks=30)
        cluster.kill("worker-1")
        await watcher.watch(id, after=0)
        last = (await watcher.groups(id))[-1]
        assert last["ended"] == "succeeded"
        result = events_in([last])[-1]["result"]
        assert result["tasks"] == 30
        kept = httpx.get(f"{cluster.url}{httpx.URL(result['kept']['url']).path}")
        assert (kept.status_code, len(kept.content)) == (200, result["kept"]["bytes"])


async def test_another_server_reports_a_job_as_interrupted_after_its_server_was_killed(cluster: Cluster) -> None:
    await cluster.mended()
    one, other = cluster.servers.values()
    async with await Watcher.enter(one) as starter, await Watcher.enter(other) as watcher:
        id = await starter.start("waiting")
        await watcher.watch(id, after=0)
        await watcher.until(id, "target")
        cluster.kill("server-1")
        assert (await watcher.groups(id))[-1]["ended"] == "interrupted"
