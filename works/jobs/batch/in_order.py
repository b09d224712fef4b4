"""Work on many things at once, and what comes of it in the order in which they came."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


async def in_order(
    source: AsyncGenerator[S, None], work: Callable[[S], Awaitable[R]], window: int
) -> AsyncGenerator[tuple[S, R], None]:
    """Each thing and what came of it, in the order of ``source``; at most ``window`` of them are held at any time.

    What ``source`` or ``work`` raises is raised here, in its turn. To be closed (contextlib.aclosing): after that
    nothing is left running.
    """
    room = asyncio.Semaphore(window)
    held: asyncio.Queue[tuple[S, asyncio.Task[R]] | None] = asyncio.Queue()
    begun: set[asyncio.Task[R]] = set()

    async def one(thing: S) -> R:
        return await work(thing)

    async def begin() -> None:
        try:
            async with aclosing(source):
                await room.acquire()
                async for thing in source:
                    task = asyncio.create_task(one(thing))
                    begun.add(task)
                    held.put_nowait((thing, task))
                    await room.acquire()
        finally:
            held.put_nowait(None)

    beginner = asyncio.create_task(begin())
    try:
        while pair := await held.get():
            result = await pair[1]
            begun.discard(pair[1])
            yield pair[0], result
            room.release()
        await beginner
    finally:
        for task in (beginner, *begun):
            task.cancel()
        await asyncio.gather(beginner, *begun, return_exceptions=True)
