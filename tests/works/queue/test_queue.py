"""The contract of a WorkQueue, checked with both pools of decoders and with Dask: the order of tasks, turns between
sessions, and exactly one end of each task.
"""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.dask import Clusters
from tests.support.pictures import decoded, small
from tests.support.queues import begun, children, error_of, forkserver, moderate, opened, task
from tests.support.running import alive, until
from works.errors import Busy, WorkError
from works.imaging.task import Result, Task
from works.queue.base import BaseQueue
from works.queue.order import Viewport
from works.queue.settings import QueueBounds

Kind = str | Clusters
each_kind = pytest.mark.parametrize(
    "workers_of", ["process", "thread", pytest.param("dask", marks=pytest.mark.chaos)], indirect=True
)


def submitted(queue: BaseQueue, tasks: list[Task], order: list[str]) -> "list[asyncio.Future[Result]]":
    """Submits all tasks and returns their futures. ``order`` receives the ids in the order in which the tasks end."""
    futures = []
    for each in tasks:
        futures.append(queue.submit(each))
        futures[-1].add_done_callback(lambda _, id=each.id: order.append(id))
    return futures


def ended(futures: "list[asyncio.Future[Result]]") -> int:
    return sum(future.done() for future in futures)


@each_kind
async def test_a_task_ends_in_its_result(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        assert queue.ready()
        inline, stored = await asyncio.gather(
            queue.submit(task("1", zoom=0.5, deliver="inline", format="png")), queue.submit(task("2", fit=(32, 99)))
        )
        assert decoded(inline.payload).shape == (32, 64, 3)
        assert decoded(queue.media.read(stored.name)).shape == (16, 32, 3)
        assert stored.queued_ms > 0
        assert stored.work_ms > 0


@each_kind
async def test_one_worker_processes_300_slices_in_the_order_of_rank(tmp_path: Path, workers_of: Kind) -> None:
    tops = list(range(0, 30_000, 100))
    random.Random(1).shuffle(tops)
    order: list[str] = []
    async with opened(tmp_path, workers_of) as queue:
        futures = submitted(queue, [task(str(top), offset_top=top, height=64, deliver="data") for top in tops], order)
        await until(lambda: len(order) >= 100, 200, pause=0)
        queue.rerank("s", "", Viewport(30_000, 800))
        seen = ended(futures)
        await asyncio.gather(*futures)
    assert order[:seen] == [str(top) for top in sorted(tops)[:seen]]
    # One slice was already being processed when the viewport moved.
    left = [top for top in sorted(tops, reverse=True) if str(top) not in order[: seen + 1]]
    assert order[seen + 1 :] == [str(top) for top in left]


@each_kind
async def test_the_first_slice_of_another_session_waits_only_for_the_running_slice(
    tmp_path: Path, workers_of: Kind
) -> None:
    order: list[str] = []
    bounds = QueueBounds(session_tasks=1000)
    async with opened(tmp_path, workers_of, bounds=bounds) as queue:
        futures = submitted(queue, [task(str(number), "many", deliver="data") for number in range(1000)], order)
        await until(lambda: len(order) >= 20, pause=0)
        before = ended(futures)
        (first,) = submitted(queue, [task("first", "other", deliver="data")], order)
        await first
        assert order.index("first") <= before + 1
        queue.cancel("many")
        await asyncio.gather(*futures, return_exceptions=True)


@each_kind
async def test_beyond_a_limit_a_task_is_refused_with_a_retry_time(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of, bounds=QueueBounds(session_tasks=3)) as queue:
        futures = [queue.submit(task(str(number))) for number in range(3)]
        with pytest.raises(Busy, match="session_tasks") as caught:
            queue.submit(task("late"))
        assert 50 <= (caught.value.retry_after_ms or 0) <= 30_000
        await asyncio.gather(*futures)
        await queue.submit(task("late"))


@each_kind
async def test_an_id_can_be_waiting_or_running_only_once(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        running, waiting = queue.submit(moderate("1")), queue.submit(task("2"))
        await begun(queue)
        for id in "12":
            with pytest.raises(ValueError, match=f"'{id}' is already"):
                queue.submit(task(id))
        other = queue.submit(task("1", "another session"))
        await asyncio.gather(running, waiting, other)


@each_kind
async def test_a_cancelled_waiting_task_is_never_processed(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        running = queue.submit(moderate("running", "other"))
        futures = {id: queue.submit(task(id, image=id[0])) for id in ("a1", "a2", "b1", "b2")}
        assert [queue.cancel("s", id="a1"), queue.cancel("s", id="a1"), queue.cancel("s", image="b")] == [1, 0, 2]
        for id in ("a1", "b1", "b2"):
            error = await error_of(futures[id])
            assert (error.code, error.temporary) == ("cancelled", False)
        stored = {(await running).name, (await futures["a2"]).name}
        assert {path.name for path in queue.media.folder.iterdir()} == stored


@each_kind
async def test_a_cancelled_running_task_ends_immediately(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        running = queue.submit(moderate("1"))
        await begun(queue)
        assert queue.cancel("s") == 1
        assert running.done()
        assert (await error_of(running)).code == "cancelled"
        await queue.submit(task("2"))


@each_kind
async def test_a_forgotten_session_is_cancelled_as_temporary(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        futures = [queue.submit(moderate("1")), queue.submit(task("2")), queue.submit(task("1", "other"))]
        await begun(queue)
        queue.forget("s")
        for future in futures[:2]:
            error = await error_of(future)
            assert (error.code, error.temporary) == ("cancelled", True)
        await futures[2]


@each_kind
async def test_every_accepted_task_ends_in_exactly_one_result_or_work_error(tmp_path: Path, workers_of: Kind) -> None:
    kinds = {"good": small(), "cut": small()[:300], "text": b"no picture", "gif": b"GIF89a" + bytes(99)}
    async with opened(tmp_path, workers_of, workers=2) as queue:
        tasks = [task(f"{kind} {number}", payload=data) for number in range(30) for kind, data in kinds.items()]
        order: list[str] = []
        futures = submitted(queue, tasks, order)
        await until(lambda: len(order) >= 10, pause=0)  # At this time, the last slices have not started.
        for number in (27, 28, 29):
            queue.cancel("s", id=f"good {number}")
        ends = await asyncio.gather(*futures, return_exceptions=True)
        await until(lambda: len(order) == len(tasks))
    assert sorted(order) == sorted(each.id for each in tasks)
    codes = [
        end.code if isinstance(end, WorkError) else end.format for end in ends if isinstance(end, WorkError | Result)
    ]
    assert [codes.count(code) for code in ("cancelled", "bad_image", "unsupported_format", "jpeg")] == [3, 60, 30, 27]


@each_kind
async def test_an_error_of_the_store_is_temporary_and_the_worker_continues(tmp_path: Path, workers_of: Kind) -> None:
    async with opened(tmp_path, workers_of) as queue:
        await queue.submit(task("0", deliver="data"))
        queue.media.folder.rmdir()
        for number in (1, 2):
            error = await error_of(queue.submit(task(str(number))))
            assert (error.code, error.temporary) == ("internal", True)
        queue.media.folder.mkdir()
        await queue.submit(task("3"))
        assert queue.ready()


@each_kind
async def test_close_finishes_running_tasks_and_fails_waiting_ones_as_temporary(
    tmp_path: Path, workers_of: Kind
) -> None:
    async with opened(tmp_path, workers_of) as queue:
        running, waiting = queue.submit(moderate("1")), queue.submit(task("2"))
        await begun(queue)
        closing = asyncio.create_task(queue.close(100))
        error = await error_of(waiting)
        assert (error.code, error.temporary) == ("cancelled", True)
        with pytest.raises(Busy, match="restarting"):
            queue.submit(task("3"))
        assert (await running).name
        await closing
        assert not queue.ready()


async def test_close_does_not_wait_beyond_its_deadline_and_leaves_no_process(tmp_path: Path) -> None:
    async with opened(tmp_path, workers=2) as queue:
        await until(lambda: len(children()) == 2)
        processes = [forkserver(), *children()]
        for child in processes[1:]:
            child.suspend()
        running = [queue.submit(task(id)) for id in ("1", "2")]
        await until(lambda: queue.running() == 2, pause=0)
        await queue.close(0.1)
        for future in running:
            assert (await error_of(future)).temporary
        await until(lambda: not any(alive(each) for each in processes))
