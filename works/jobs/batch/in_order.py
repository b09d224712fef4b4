"""Processes several items at the same time, and yields the results in the order of the items."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


async def in_order(
    source: AsyncGenerator[S, None], work: Callable[[S], Awaitable[R]], window: int
) -> AsyncGenerator[tuple[S, R], None]:
    """Yields each item with its result, in the order of ``source``. At most ``window`` items are in memory.

    Raises what ``source`` or ``work`` raises, when it is the turn of that item. It must be closed
    (contextlib.aclosing), which cancels running work.
    """
    free = asyncio.Semaphore(window)
    pairs: asyncio.Queue[tuple[S, asyncio.Task[R]] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[R]] = set()

    async def one(item: S) -> R:
        return await work(item)

    async def start_all() -> None:
        try:
            async with aclosing(source):
                await free.acquire()
                async for item in source:
                    task = asyncio.create_task(one(item))
                    tasks.add(task)
                    pairs.put_nowait((item, task))
                    await free.acquire()
        finally:
            pairs.put_nowait(None)

    starter = asyncio.create_task(start_all())
    try:
        while pair := await pairs.get():
            result = await pair[1]
            tasks.discard(pair[1])
            yield pair[0], result
            free.release()
        await starter
    finally:
        for task in (starter, *tasks):
            task.cancel()
        await asyncio.gather(starter, *tasks, return_exceptions=True)
