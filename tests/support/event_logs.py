"""What the tests of the EventLog share: every implementation opened on a folder, and readers that collect."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.redis import url_in
from works.events import Event, EventLog, PositionLost
from works.events.open import open_events
from works.events.redis import calls, store

OPENERS: dict[str, Callable[[Path, int], EventLog]] = {
    "sqlite": lambda folder, keep: open_events(f"sqlite:{folder}/events.db", keep),
    "redis": lambda folder, keep: open_events(url_in(folder), keep),
}


def be_patient(patch: pytest.MonkeyPatch) -> None:
    """With Redis: what a server gives up after seconds is waited for."""
    patch.setattr(store, "_ANSWER", 60.0)
    for module in (store, calls):
        patch.setattr(module, "PATIENCE", 60.0)
    patch.setitem(calls.RedisCalls.call.__kwdefaults__, "patience", 60.0)


@asynccontextmanager
async def opened(kind: str, folder: Path, keep: int = 10_000) -> AsyncIterator[EventLog]:
    log = OPENERS[kind](folder, keep)
    try:
        yield log
    finally:
        await log.close()


def event(number: int) -> str:
    return f'{{"number":{number}}}'


def numbered(first: int, last: int) -> list[Event]:
    """Events whose number is their offset."""
    return [Event(offset, event(offset)) for offset in range(first, last + 1)]


async def fill(log: EventLog, stream: str, count: int, *, durable: bool) -> None:
    """Events 1 to ``count``, each numbered by its offset."""
    await asyncio.gather(*(log.append(stream, event(number), durable=durable) for number in range(1, count + 1)))


async def collect(log: EventLog, stream: str, after: int, count: int) -> list[Event]:
    """The first ``count`` events that a subscriber sees."""
    seen: list[Event] = []
    async with aclosing(aiter(log.subscribe(stream, after))) as batches:  # type: ignore[type-var]
        async for batch in batches:
            seen += batch
            if len(seen) >= count:
                return seen
    raise AssertionError("a subscription ended")


async def is_lost(log: EventLog, stream: str, after: int) -> bool:
    """Whether a subscriber at that position is told Lost, rather than given an event."""
    try:
        async with asyncio.timeout(60):
            await collect(log, stream, after, 1)
    except PositionLost:
        return True
    return False


async def eventually(log: EventLog, room: str, users: list[str]) -> None:
    """Waits until those are in the room, and nobody else."""
    async with asyncio.timeout(60):
        while True:
            if await log.present(room) == users:
                return
            await asyncio.sleep(0.02)
