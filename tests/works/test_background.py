"""Background tasks. A task that ends is logged, reported as a fault, and started again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.running import until
from works.background import BackgroundTasks, Backoff

QUICK = Backoff(first=0.01, longest=0.05, well_after=0.2)


@pytest.fixture
async def tasks() -> AsyncIterator[BackgroundTasks]:
    started = BackgroundTasks(QUICK)
    yield started
    await started.close()


class Failing:
    """A task that fails with these errors, one in each run, and then runs without an end. For None, a run returns
    without an error.
    """

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        if self.errors:
            error = self.errors.pop(0)
            if error is None:
                return
            raise error
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [OSError("away"), ValueError("a fault in the code"), asyncio.CancelledError(), None])
async def test_a_task_that_ends_is_reported_and_started_again(
    tasks: BackgroundTasks, error: BaseException | None
) -> None:
    task = Failing(error, error, error)
    tasks.start("bans", task.run)
    await until(tasks.faults)
    assert tasks.faults() == ["bans: this background task has ended; it is started again, and the log says why"]
    await until(lambda: not tasks.faults())
    assert task.runs == 4


async def test_a_running_task_is_not_reported(tasks: BackgroundTasks) -> None:
    task = Failing()
    tasks.start("sweeps", task.run)
    await until(lambda: task.runs == 1)
    assert tasks.faults() == []


async def test_a_task_that_fails_affects_no_other_task(tasks: BackgroundTasks) -> None:
    good = Failing()
    tasks.start("bad", Failing(*[OSError()] * 1000).run)
    tasks.start("good", good.run)
    await until(tasks.faults)
    assert [fault.partition(":")[0] for fault in tasks.faults()] == ["bad"]
    assert good.runs == 1


async def test_close_waits_for_all_tasks() -> None:
    ended = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks = BackgroundTasks(QUICK)
    tasks.start("a", run)
    tasks.start("b", run)
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == [True, True]
    assert tasks.faults() == []
