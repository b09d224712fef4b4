"""Background tasks: none ends silently. A task that ends is started again, and is reported as down in the meantime."""

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
    """A task that fails once for each of the errors, and then runs."""

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


@pytest.mark.parametrize("error", [OSError("away"), ValueError("a fault of ours"), asyncio.CancelledError(), None])
async def test_a_task_that_ends_is_started_again_and_is_down_until_it_runs(
    tasks: BackgroundTasks, error: BaseException | None
) -> None:
    task = Failing(error, error, error)
    tasks.start("bans", task.run)
    await until(tasks.faults)
    assert tasks.faults() == ["bans: this background task has ended; it is started again, and the log says why"]
    await until(lambda: not tasks.faults())
    assert task.runs == 4


async def test_a_task_that_runs_is_never_down(tasks: BackgroundTasks) -> None:
    task = Failing()
    tasks.start("sweeps", task.run)
    await until(lambda: task.runs == 1)
    assert tasks.faults() == []


async def test_each_task_fails_for_itself(tasks: BackgroundTasks) -> None:
    good = Failing()
    tasks.start("bad", Failing(*[OSError()] * 1000).run)
    tasks.start("good", good.run)
    await until(tasks.faults)
    assert [fault.partition(":")[0] for fault in tasks.faults()] == ["bad"]
    assert good.runs == 1


async def test_the_end_waits_for_all_of_them() -> None:
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
