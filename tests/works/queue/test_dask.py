"""A queue on a Dask cluster. Parts of the cluster die, freeze or start late. The queue loses and repeats no slice, and
it recovers.
"""

import asyncio
import itertools
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.dask import Clusters, Dask, dask_in
from tests.support.forking import ForkedProcess
from tests.support.queues import OnDask, endless, error_of, kill_all, moderate, on_dask, slow, task
from tests.support.running import alive, until
from works.errors import Busy
from works.imaging.task import Result
from works.queue.cluster import Cluster
from works.queue.dask import DaskCluster
from works.queue.order import Viewport

pytestmark = pytest.mark.chaos


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Dask]:
    """A cluster for one test. It has no workers yet."""
    with dask_in(tmp_path, slice_timeout=200) as started:
        yield started


def files(queue: OnDask) -> set[str]:
    return {path.name for path in queue.media.folder.iterdir()}


def names(results: list[Result]) -> set[str]:
    return {result.name for result in results}


async def busy(cluster: Dask) -> ForkedProcess:
    """Returns the worker that processes a slice. Its decoder has used more processor time than the start of a decoder
    takes. Decoders that only started have used less.
    """
    found: list[ForkedProcess] = []

    def computes(child: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return bool(child.cpu_times().user > 0.5)
        return False

    def seen() -> bool:
        living = [worker for worker in cluster.workers if worker.poll() is None]
        found.extend(worker for worker in living if any(map(computes, cluster.decoders(worker))))
        return bool(found)

    await until(seen)
    return found[0]


async def test_killed_workers_neither_lose_nor_repeat_slices(cluster: Dask) -> None:
    for _ in range(3):
        cluster.add(2)
    async with on_dask(cluster, 6) as queue:
        ends: list[str] = []
        futures = [queue.submit(task(str(number))) for number in range(150)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: ends.append(str(number)))
        in_progress = 0
        for victim, least in zip(cluster.workers[:2], (20, 60), strict=True):
            await until(lambda least=least: len(ends) >= least)
            in_progress += len(queue.given())
            cluster.kill(victim)
        results = await asyncio.gather(*futures)
        await until(lambda: len(ends) == 150)
        assert sorted(ends, key=int) == [str(number) for number in range(150)]
        assert len(names(results)) == 150
        # When a worker is killed, another one processes those slices again whose result the worker had stored but not
        # yet reported. The first file is deleted when the retention of results ends. No other slice is processed twice.
        assert len(files(queue) - names(results)) <= in_progress


async def test_a_slice_that_kills_its_worker_three_times_fails_as_crashed(cluster: Dask) -> None:
    for _ in range(4):
        cluster.add()
    async with on_dask(cluster, 4) as queue:
        doomed = queue.submit(endless())
        for _ in range(3):
            cluster.kill(await busy(cluster))
        error = await error_of(doomed)
        assert (error.code, error.temporary) == ("crashed", False)
        assert "3 times" in error.message
        await queue.submit(task("next"))


async def test_a_slice_that_kills_its_decoder_each_time_fails_and_the_worker_continues(cluster: Dask) -> None:
    worker = cluster.add()
    async with on_dask(cluster) as queue:
        await queue.submit(task("0"))
        doomed = queue.submit(endless())

        def killed() -> bool:
            kill_all([] if doomed.done() else cluster.decoders(worker))
            return doomed.done()

        await until(killed)
        assert (await error_of(doomed)).code == "crashed"
        await queue.submit(task("1"))
        assert worker.poll() is None


async def test_slices_of_a_lost_scheduler_are_processed_after_its_restart(cluster: Dask) -> None:
    for _ in range(2):
        cluster.add()
    async with on_dask(cluster, 2) as queue:
        futures = [queue.submit(moderate(str(number))) for number in range(12)]
        await until(lambda: sum(future.done() for future in futures) >= 2)
        cluster.kill(cluster.scheduler)
        await until(lambda: not queue.ready())
        with pytest.raises(Busy, match="no worker is available") as caught:
            queue.submit(task("late"))
        assert caught.value.retry_after_ms
        cluster.start()
        results = await asyncio.gather(*futures)
        assert len(names(results)) == 12
        await until(queue.ready)
        await queue.submit(task("late"))


async def test_a_frozen_scheduler_counts_as_lost_until_it_answers(cluster: Dask) -> None:
    cluster.add()
    async with on_dask(cluster, answer=5.0) as queue:
        await queue.submit(task("0"))
        assert cluster.scheduler
        await until(queue.ready)  # A busy scheduler may need more than the five seconds of ``answer``.
        cluster.scheduler.send_signal(signal.SIGSTOP)
        future = queue.submit(task("1"))
        await until(lambda: not queue.ready())
        cluster.scheduler.send_signal(signal.SIGCONT)
        assert (await future).name
        await until(queue.ready)


async def test_accepted_slices_do_not_wait_for_ever_for_an_unreachable_cluster(cluster: Dask) -> None:
    cluster.add()
    async with on_dask(cluster, queue_patience=0.5) as queue:
        futures = [queue.submit(endless(str(number))) for number in range(3)]
        await until(queue.given, pause=0)
        cluster.kill(cluster.scheduler)
        for future in futures:
            error = await error_of(future)
            assert (error.code, error.temporary) == ("cancelled", True)
            assert "queue_patience" in error.message


async def test_a_slice_of_a_frozen_worker_fails_as_temporary(cluster: Dask) -> None:
    worker = cluster.add()
    async with on_dask(cluster) as warm, on_dask(cluster, timeout=0.1, queue_patience=0.5) as queue:
        await warm.submit(task("0"))
        worker.send_signal(signal.SIGSTOP)
        error = await error_of(queue.submit(task("1")))
        assert (error.code, error.temporary) == ("timeout", True)


async def test_a_queue_starts_before_its_cluster_and_is_ready_when_workers_connect(tmp_path: Path) -> None:
    with dask_in(tmp_path, start=False) as cluster:
        async with on_dask(cluster, 0) as queue:
            return await _check_start(cluster, queue)


async def _check_start(cluster: Dask, queue: OnDask) -> None:
    assert not queue.ready()
    with pytest.raises(Busy):
        queue.submit(task("early"))
    cluster.start()
    await until(lambda: queue.connected, 120)
    assert not queue.ready()
    with pytest.raises(Busy):
        queue.submit(task("early"))
    worker = cluster.add(2)
    await until(queue.ready, 120)
    assert (await queue.submit(task("1"))).name
    cluster.kill(worker)
    await until(lambda: not queue.ready())


async def test_an_unexpected_error_does_not_end_the_attempts_to_connect(cluster: Dask) -> None:
    cluster.add()
    queue = OnDask(cluster)
    faults = [RuntimeError("an unexpected error of the driver")]
    connect = queue._connect

    async def connect_after_faults() -> Cluster:
        if faults:
            raise faults.pop()
        return await connect()

    queue._connect = connect_after_faults
    await queue.start()
    try:
        await until(queue.ready, 120)
        assert (await queue.submit(task("1"))).name
    finally:
        await queue.close(0)


async def test_a_worker_that_is_stopped_finishes_its_slice(cluster: Dask) -> None:
    worker = cluster.add(drain_timeout=100)
    async with on_dask(cluster) as queue:
        future = queue.submit(slow())
        assert await busy(cluster) is worker
        assert await asyncio.to_thread(cluster.stop, worker) == 0
        assert (await future).width
        assert len(cluster.log.split("worker.decoder_ended")) == 1


async def test_only_slices_in_the_cluster_can_end_out_of_order(clusters: Clusters) -> None:
    tops = list(range(0, 12_000, 100))
    random.Random(1).shuffle(tops)
    order: list[int] = []
    async with on_dask(clusters.with_threads(2), 2) as queue:
        futures = {top: queue.submit(task(str(top), offset_top=top, height=64, deliver="data")) for top in tops}
        for top, future in futures.items():
            future.add_done_callback(lambda _, top=top: order.append(top))
        await until(lambda: len(order) >= 40, pause=0)
        queue.rerank("s", "", Viewport(12_000, 800))
        before = len(order)
        ended = {top for top, future in futures.items() if future.done()}
        in_progress = {*map(int, queue.given()), *ended.difference(order)}
        await asyncio.gather(*futures.values())
    # The number of slices that the cluster may have: one for each of its 2 threads, and 1 that waits for a thread.
    most = 2 + 1
    assert len(in_progress) <= 2 * most, "more slices than the cluster may have were not ordered by the new viewport"
    left = [top for top in order[before:] if top not in in_progress]
    for place, top in enumerate(order[:before]):
        assert sum(later < top for later in order[place + 1 : before]) < most
    for place, top in enumerate(left):
        assert sum(later > top for later in left[place + 1 :]) < most


async def test_cancelled_slices_leave_no_files_whenever_they_are_cancelled(clusters: Clusters) -> None:
    chance = random.Random(2)
    async with on_dask(clusters.with_threads(2), 2) as queue:
        futures = [queue.submit(task(str(number))) for number in range(120)]
        for number, future in enumerate(futures):
            if chance.random() < 0.4:
                await until(lambda future=future: future.done() or len(queue.given()) >= 2, pause=0)
                queue.cancel("s", id=str(number))
            elif chance.random() < 0.3:
                await asyncio.wait([future])
        ends = await asyncio.gather(*futures, return_exceptions=True)
        await until(lambda: not queue.given())
        results = [end for end in ends if isinstance(end, Result)]
        assert 0 < len(results) < 120
        await until(lambda: files(queue) == names(results))


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_cancelled_slice_that_is_stuck_has_its_decoder_killed(
    cluster: Dask, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    stop, tries = DaskCluster.stop, itertools.count()

    async def stop_after_failures(dask: DaskCluster, keys: tuple[str, ...]) -> None:
        if next(tries) < failures:
            raise RuntimeError("an unexpected error of the driver")
        await stop(dask, keys)

    monkeypatch.setattr(DaskCluster, "stop", stop_after_failures)
    worker = cluster.add()
    async with on_dask(cluster) as queue:
        await queue.submit(task("0"))
        (child,) = cluster.decoders(worker)
        child.suspend()
        stuck = queue.submit(task("stuck", "stuck"))
        await until(queue.given, pause=0)
        queue.cancel("stuck")
        assert (await error_of(stuck)).code == "cancelled"
        await until(lambda: not alive(child))
        await queue.submit(task("1"))
