"""Helpers for the tests of the EventStore: every implementation opened on a folder, and readers that collect events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.redis import url_in
from works.events.broker import Broker, Event, PositionLost
from works.events.presence import Presence
from works.events.redis.store import RedisEventStore, RedisTimeouts
from works.events.sqlite.store import SqliteEventStore
from works.events.store import EventStore

T = TypeVar("T")

# Long timeouts, for tests on a machine that may stop for a while: the store waits for Redis.
PATIENT = RedisTimeouts(answer=60.0, patience=60.0)
# The timeouts of a server, only shorter, for tests in which Redis is not running. A test that needs an answer of such a
# store while Redis is running must repeat the request until it succeeds, because a busy machine may exceed the
# timeouts.
HASTY = RedisTimeouts(answer=0.6, patience=1.0)
OPENERS: dict[str, Callable[[Path, int], EventStore]] = {
    "sqlite": lambda folder, keep: SqliteEventStore(folder / "events.db", keep),
    "redis": lambda folder, keep: RedisEventStore(url_in(folder), keep, PATIENT),
}

every_kind = pytest.mark.parametrize("kind", OPENERS, indirect=True)


@asynccontextmanager
async def opened(kind: str, folder: Path, keep: int = 10_000) -> AsyncIterator[EventStore]:
    store = OPENERS[kind](folder, keep)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def opened_redis(
    folder: Path, timeouts: RedisTimeouts = PATIENT, keep: int = 10_000
) -> AsyncIterator[RedisEventStore]:
    """Opens the store of a separate server process on the Redis of this folder."""
    store = RedisEventStore(url_in(folder), keep, timeouts)
    try:
        yield store
    finally:
        await store.close()


def event(number: int) -> str:
    return f'{{"number":{number}}}'


def numbered(first: int, last: int) -> list[Event]:
    """Returns events whose number equals their offset."""
    return [Event(offset, event(offset)) for offset in range(first, last + 1)]


async def fill(broker: Broker, stream: str, count: int, *, durable: bool) -> None:
    """Appends events 1 to ``count``, each numbered by its offset."""
    await asyncio.gather(*(broker.append(stream, event(number), durable=durable) for number in range(1, count + 1)))


async def collect(broker: Broker, stream: str, after: int, count: int) -> list[Event]:
    """Subscribes to a stream and returns the first ``count`` events."""
    seen: list[Event] = []
    async with aclosing(aiter(broker.subscribe(stream, after))) as batches:  # type: ignore[type-var]
        async for batch in batches:
            seen += batch
            if len(seen) >= count:
                return seen
    raise AssertionError("a subscription ended")


async def is_lost(broker: Broker, stream: str, after: int) -> bool:
    """Returns whether a subscriber at this position gets PositionLost instead of an event."""
    try:
        async with asyncio.timeout(60):
            await collect(broker, stream, after, 1)
    except PositionLost:
        return True
    return False


async def persist(call: Callable[[], Awaitable[T]], failures: list[str] | None = None) -> T:
    """Repeats the call until it succeeds, and appends the message of each failure to ``failures``."""
    while True:
        try:
            return await call()
        except OSError as error:
            if failures is not None:
                failures.append(str(error))


async def eventually(presence: Presence, room: str, users: list[str]) -> None:
    """Waits until exactly these users are present in the room."""
    async with asyncio.timeout(60):
        while True:
            if await presence.present(room) == users:
                return
            await asyncio.sleep(0.02)
