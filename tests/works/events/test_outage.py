"""The EventStore in Redis while Redis is not available: it is paused, killed, full, or has lost its data."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.event_stores import (
    HASTY,
    PATIENT,
    collect,
    event,
    eventually,
    fill,
    is_lost,
    numbered,
    opened,
    opened_redis,
    persist,
)
from tests.support.redis import Redis, redis_in
from tests.support.running import until
from works.events.broker import Broker, Event, PositionLost

CANNOT = "events cannot be written: "
outage = pytest.mark.parametrize("how", ["paused", "killed"])


def interrupt(redis: Redis, how: str) -> None:
    redis.pause() if how == "paused" else redis.kill()


def restore(redis: Redis, how: str) -> None:
    redis.go_on() if how == "paused" else redis.start()


@asynccontextmanager
async def reading(broker: Broker, stream: str) -> AsyncIterator[list[Event]]:
    """Yields a list that grows with the events that a subscriber receives."""
    seen: list[Event] = []

    async def read() -> None:
        async for batch in broker.subscribe(stream, 0):
            seen.extend(batch)

    task = asyncio.create_task(read())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.chaos
@outage
async def test_an_outage_neither_loses_nor_repeats_events(redis: Redis, tmp_path: Path, how: str) -> None:
    failures: list[str] = []
    total, gone = 1500, asyncio.Event()

    async def write(broker: Broker, first: int) -> dict[int, int]:
        offsets = {}
        for number in range(first, total, 10):
            if number > total // 2:
                await gone.wait()
            data, id = event(number), f"id {number}"
            offsets[number] = await persist(partial(broker.append, "durable", data, id=id), failures)
        return offsets

    async def write_volatile(broker: Broker) -> None:
        for number in range(1, total + 1):
            if number > total // 2:
                await gone.wait()
            assert await broker.append("volatile", event(number), durable=False) == number

    async with opened_redis(tmp_path, HASTY) as one, opened_redis(tmp_path, HASTY) as other:
        async with AsyncExitStack() as readers:
            seen = await readers.enter_async_context(reading(one.broker, "durable"))
            seen_by_other = await readers.enter_async_context(reading(other.broker, "durable"))
            volatile = await readers.enter_async_context(reading(other.broker, "volatile"))
            writers = [asyncio.create_task(write((one, other)[first % 2].broker, first)) for first in range(10)]
            writing = asyncio.create_task(write_volatile(one.broker))
            await until(lambda: len(seen) > 100)
            interrupt(redis, how)
            gone.set()
            # Callers get an error in time, although Redis is still not available.
            await until(lambda: len(failures) >= 10)
            assert not writing.done()
            restore(redis, how)
            async with asyncio.timeout(60):
                parts = await asyncio.gather(*writers)
                await writing
            await until(lambda: len(seen) == len(seen_by_other) == len(volatile) == total)
        assert volatile == numbered(1, total)
        offsets = {offset: event(number) for part in parts for number, offset in part.items()}
        whole = [Event(offset, offsets[offset]) for offset in range(1, total + 1)]
        stored = await persist(partial(one.broker.read, "durable", 0, total + 1))
        assert seen == seen_by_other == whole == stored
    assert all(text.startswith(CANNOT) for text in failures)


async def test_repeatedly_cut_connections_cause_no_gap_and_no_repetition(redis: Redis, tmp_path: Path) -> None:
    cuts, written, enough = 0, itertools.count(1), asyncio.Event()

    async def write(broker: Broker) -> None:
        while not enough.is_set():
            number = next(written)
            await broker.append("s", event(number), durable=bool(number % 3))

    async with (
        opened("redis", tmp_path, 100_000) as one,
        opened("redis", tmp_path, 100_000) as other,
        reading(other.broker, "s") as seen,
    ):
        await one.broker.append("s", event(0))
        writers = [asyncio.create_task(write(store.broker)) for store in (one, other, one, other)]
        while cuts < 10:
            before = len(seen)
            for which in ("normal", "pubsub"):
                cuts += redis.ask("CLIENT", "KILL", "TYPE", which) != ":0"
            # The writers must not stop here. An event whose append was in progress at the cut may have been received
            # already, and without later events this wait would never end.
            await until(lambda before=before: len(seen) > before)
        enough.set()
        await asyncio.gather(*writers)
        total = next(written)
        await until(lambda: len(seen) >= total)
        assert [each.offset for each in seen] == list(range(1, total + 1))
        assert sorted(each.data for each in seen) == sorted(event(number) for number in range(total))
        newest = seen[-500:]
        assert newest == await one.broker.read("s", newest[0].offset - 1, 501)


async def test_a_short_restart_causes_no_errors(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store, reading(store.broker, "s") as seen:
        await fill(store.broker, "s", 10, durable=True)
        redis.kill()
        appends = asyncio.gather(*(store.broker.append("s", event(number)) for number in range(11, 101)))
        entering = asyncio.create_task(store.presence.enter("room", "alice", "phone"))
        marking = asyncio.create_task(store.marks.set("s", "alice", 3))
        await asyncio.to_thread(redis.start)
        assert await appends == list(range(11, 101))
        assert await entering
        assert (await marking).offset == 3
        await until(lambda: seen == numbered(1, 100))


@pytest.mark.chaos
@outage
async def test_calls_during_an_outage_fail_in_time_and_work_again_afterwards(
    redis: Redis, tmp_path: Path, how: str
) -> None:
    async with opened("redis", tmp_path) as patient:
        await fill(patient.broker, "s", 3, durable=True)
    async with opened_redis(tmp_path, HASTY) as store:
        await persist(store.check)  # After this call, the store is connected.
        interrupt(redis, how)
        calls = [
            store.broker.append("s", event(4), id="x"),
            store.check(),
            store.marks.set("s", "alice", 1),
            store.marks.remove("s", "alice"),
            store.broker.expire("s", 1),
            store.sweep(),
            store.presence.enter("room", "alice", "phone"),
            store.presence.leave("room", "bob", "laptop"),
            store.broker.position("s"),
            store.broker.read("s", 0, 10),
            store.presence.present("room"),
            store.marks.of_reader("alice"),
            store.broker.recovers("s", "", 0),
        ]
        async with asyncio.timeout(60):  # Redis stays unavailable until all calls have failed.
            answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, OSError)
            assert str(answer).startswith("events cannot be ")
        subscribing = asyncio.create_task(collect(store.broker, "s", 0, 4))  # The subscriber waits for Redis.
        restore(redis, how)
        async with asyncio.timeout(60):
            await persist(store.check)
            assert await persist(partial(store.broker.append, "s", event(4), id="x")) == 4
            assert await subscribing == numbered(1, 4)
            users = (f"user {number}" for number in itertools.count())
            assert await persist(lambda: store.presence.enter("room", next(users), "phone"))


async def test_after_the_loss_of_all_data_readers_are_notified(redis: Redis, tmp_path: Path) -> None:
    async with opened_redis(tmp_path, replace(PATIENT, present=1.0)) as store:
        await asyncio.gather(fill(store.broker, "idle", 3, durable=True), fill(store.broker, "busy", 3, durable=True))
        before = await store.broker.position("idle")
        await store.presence.enter("room", "alice", "phone")
        idle, busy = aiter(store.broker.subscribe("idle", 0)), aiter(store.broker.subscribe("busy", 0))
        assert await anext(idle) == await anext(busy) == numbered(1, 3)
        redis.ask("FLUSHALL")
        await fill(store.broker, "busy", 10, durable=True)
        async with asyncio.timeout(60):
            for batches in (busy, idle):
                with pytest.raises(PositionLost):
                    await anext(batches)
            assert not await store.broker.recovers("idle", before.epoch, 3)
            assert await is_lost(store.broker, "idle", 3)
            assert (await store.broker.position("idle")).epoch != before.epoch
            assert await collect(store.broker, "busy", 0, 10) == numbered(1, 10)
            # The process of alice renews her presence without a request.
            await eventually(store.presence, "room", ["alice"])


async def test_after_a_restart_without_its_data_readers_are_notified(tmp_path: Path) -> None:
    with redis_in(tmp_path, appendonly=False) as redis:
        async with opened("redis", tmp_path) as store:
            await fill(store.broker, "s", 300, durable=True)
            before = await store.broker.position("s")
            slow, waiting_reader = aiter(store.broker.subscribe("s", 0)), aiter(store.broker.subscribe("s", 300))
            assert await anext(slow) == numbered(1, 256)
            waiting = asyncio.ensure_future(anext(waiting_reader))
            redis.kill()
            redis.start()
            async with asyncio.timeout(60):
                for reading in (waiting, anext(slow)):
                    with pytest.raises(PositionLost):
                        await reading
                assert not await store.broker.recovers("s", before.epoch, 300)
                assert await store.broker.append("s", event(1)) == 1


async def test_readers_are_notified_of_events_that_redis_lost(tmp_path: Path) -> None:
    """Redis with appendfsync everysec may lose its last events in a power cut. The epoch is then the same, but there
    are fewer events.
    """
    with redis_in(tmp_path, appendonly=False) as redis:
        async with opened("redis", tmp_path) as store:
            await fill(store.broker, "s", 3, durable=True)
            assert redis.ask("SAVE") == "+OK"
            await fill(store.broker, "s", 3, durable=True)
            before = await store.broker.position("s")
            batches = aiter(store.broker.subscribe("s", 6))
            waiting = asyncio.ensure_future(anext(batches))
            redis.kill()
            redis.start()
            assert (await store.broker.position("s")).epoch == before.epoch
            async with asyncio.timeout(60):
                with pytest.raises(PositionLost):
                    await waiting
            assert not await store.broker.recovers("s", before.epoch, 6)


async def test_scripts_that_redis_has_lost_are_loaded_again(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        await store.broker.append("s", event(1))
        appends = [asyncio.create_task(store.broker.append("s", event(number))) for number in range(2, 301)]
        redis.ask("SCRIPT", "FLUSH", "SYNC")
        assert await asyncio.gather(*appends) == list(range(2, 301))
        redis.ask("SCRIPT", "FLUSH", "SYNC")
        assert await store.broker.append("s", event(301)) == 301


@pytest.mark.chaos
async def test_when_redis_is_full_durable_appends_are_refused_and_others_wait(redis: Redis, tmp_path: Path) -> None:
    # The store repeats its calls as long as Redis answers with an error, but each caller waits at most ``patience``
    # seconds.
    timeouts = replace(PATIENT, patience=HASTY.patience)
    async with opened("redis", tmp_path) as patient, opened_redis(tmp_path, timeouts) as store:
        await fill(patient.broker, "s", 3, durable=True)
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        results = [asyncio.create_task(store.broker.append("results", event(n), durable=False)) for n in range(1, 6)]
        await until(lambda: "maxmemory" in store._calls.fault)
        for refused in await asyncio.gather(store.broker.append("s", event(4)), store.check(), return_exceptions=True):
            assert isinstance(refused, OSError)
            assert str(refused).startswith(CANNOT + "command not allowed when used memory > 'maxmemory'")
        assert await patient.broker.read("s", 0, 10) == numbered(1, 3)
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert await asyncio.gather(*results) == [1, 2, 3, 4, 5]
        assert await persist(partial(store.broker.append, "s", event(4), id="x")) == 4


async def test_the_buffer_for_unwritten_events_is_limited(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        redis.kill()
        size = 8 << 20
        waiting = [asyncio.create_task(store.broker.append("s", "x" * size, durable=False)) for _ in range(7)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=CANNOT + "the buffer for unwritten events is full"):
            await store.broker.append("s", "x" * size, durable=False)
        await asyncio.to_thread(redis.start)
        assert await asyncio.gather(*waiting) == list(range(1, 8))
        assert await store.broker.append("s", "x" * size, durable=False) == 8


async def test_an_orderly_close_does_not_wait_for_redis(redis: Redis, tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        async with opened_redis(tmp_path, HASTY) as store:
            await persist(partial(store.presence.enter, "room", "alice", "phone"))
            redis.kill()
            waiting = asyncio.create_task(store.broker.append("s", event(1), durable=False))
            await asyncio.sleep(0)
        with pytest.raises(OSError, match=CANNOT):
            await waiting
