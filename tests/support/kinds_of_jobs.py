"""Kinds of jobs for the tests, written as a user would write them: a module named by the setting ``job_modules``."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tests.support.pictures import small
from works.imaging.task import Task
from works.jobs import JobContext, JobFailed, job


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Counting(Nothing):
    steps: int = Field(10, ge=0, le=100_000)
    pause: float = Field(0, ge=0)
    fail: list[str] = []


@job
async def counting(context: JobContext, params: Counting) -> dict[str, Any]:
    """Counts its targets, one after the other."""
    names = [f"t{number}" for number in range(params.steps)]
    names = [name for name in names if context.only is None or name in context.only]
    for name in names:
        await context.target(name, "not_started")
    await context.stage("counting")
    failed = 0
    for number, name in enumerate(names, 1):
        await context.target(name, "running")
        await asyncio.sleep(params.pause)
        failed += name in params.fail
        await context.target(name, "failed" if name in params.fail else "ok", number=number)
        await context.log(f"line {number}", name)
        await context.progress(number, failed, len(names))
    return {"counted": len(names)}


class Waiting(Nothing):
    file: str = ""
    deaf: bool = False


@job
async def waiting(context: JobContext, params: Waiting) -> None:
    """Waits until it is cancelled. If ``deaf``, it also ignores the cancellation. In the end it writes to ``file``."""
    await context.target("begun", "running")
    await context.target("done", "ok")
    await context.target("never", "not_started")
    (context.folder() / "scratch").write_text("here")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        while params.deaf:
            with_patience = asyncio.shield(asyncio.Event().wait())
            try:
                await with_patience
            except asyncio.CancelledError:
                continue
        if params.file:
            Path(params.file).write_text("cleared away")
        raise


class Loud(Nothing):
    lines: int = 1000
    text: str = "x" * 100


@job
async def loud(context: JobContext, params: Loud) -> None:
    """Writes many log lines."""
    for number in range(params.lines):
        await context.log(f"{number} {params.text}")


@job
async def asking(context: JobContext, params: Nothing) -> dict[str, Any]:
    """Asks a question and continues once a user approves."""
    by = await context.approve("Shall I?", where="everywhere")
    return {"by": by}


@job
async def failing(context: JobContext, params: Nothing) -> None:
    """Fails with a partial result."""
    raise JobFailed("too_bad", "this job always fails", {"so_far": 3})


@job
async def broken(context: JobContext, params: Nothing) -> None:
    """Raises an unexpected exception, as a job with a bug does."""
    raise RuntimeError("a secret of the server")


@job(scope="admin")
async def restricted(context: JobContext, params: Nothing) -> None:
    """May be started by administrators only."""


class Telling(Nothing):
    logs: list[str] = []
    targets: list[dict[str, Any]] = []
    times: int = 1
    pause: float = 0
    result: str = "None"


@job
async def telling(context: JobContext, params: Telling) -> Any:
    """Sends the log lines and targets in its parameters; ``result`` is a Python expression."""
    for line in params.logs:
        await context.log(line)
    for target in params.targets:
        await context.target(**target)
        for time in range(1, params.times):
            await context.target(**target | {"name": f"{target['name']}-{time}"})
        await asyncio.sleep(params.pause)
    return eval(params.result)


class Working(Nothing):
    tasks: int = 20


@job
async def working(context: JobContext, params: Working) -> dict[str, Any]:
    """Runs slice tasks and keeps a file as its result."""
    tasks = [Task("anything", f"{number}", small(), deliver="inline") for number in range(params.tasks)]
    done = await asyncio.gather(*(context.run(task) for task in tasks))
    file = context.folder() / "all"
    file.write_bytes(b"".join(result.payload for result in done))
    return {"tasks": len(done), "kept": await context.keep(file, "all.zip")}


LATE: list[BaseException] = []


@job
async def late(context: JobContext, params: Nothing) -> None:
    """Leaves a task behind that still calls the context after the job has ended."""

    async def tell() -> None:
        try:
            while True:
                await context.log("still here")
        except BaseException as error:
            LATE.append(error)
            raise

    LATE.clear()
    TASKS.append(asyncio.create_task(tell()))
    await asyncio.sleep(0)


TASKS: list[asyncio.Task[None]] = []


@job
async def telling_and_asking(context: JobContext, params: Nothing) -> None:
    """Writes so many log lines that only urgent events are still written, and then asks a question."""
    for _ in range(15):
        for _ in range(20):
            await context.log("x" * 3900)
        await asyncio.sleep(0.11)
    await context.approve("Still there?")
