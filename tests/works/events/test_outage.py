"""The EventLog in Redis while Redis is away: paused, killed, without its data, full."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.event_logs import be_patient, collect, event, eventually, fill, is_lost, numbered, opened
from tests.support.redis import Redis, redis_in, url_in
from tests.support.running import until
from works.events import Event, EventLog, PositionLost
from works.events.redis.store import RedisEventLog

CANNOT = "events cannot be written: "
away = pytest.mark.parametrize("how", ["paused", "killed"])


def leave(redis: Redis, how: str) -> None:
    redis.pause() if how == "paused" else redis.kill()


def come_back(redis: Redis, how: str) -> None:
    redis.go_on() if how == "paused" else redis.start()


@asynccontextmanager
async def reading(log: EventLog, stream: str) -> AsyncIterator[list[Event]]:
    """What a subscriber sees, as it sees it."""
    seen: list[Event] = []

    async def read() -> None:
        async for batch in log.subscribe(stream, 0):
            seen.extend(batch)

    task = asyncio.create_task(read())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def persist(log: EventLog, number: int, failures: list[str]) -> int:
    """Appends under an id until it is acknowledged; notes what is said of each failure."""
    while True:
        try:
            return await log.append("durable", event(number), id=f"id {number}")
        except OSError as error:
            failures.append(str(error))


@away
async def test_through_an_outage_nothing_is_lost_and_nothing_doubled(
    redis: Redis, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    failures: list[str] = []
    total, gone = 1500, asyncio.Event()

    async def write(log: EventLog, first: int) -> dict[int, int]:
        offsets = {}
        for number in range(first, total, 10):
            if number > total // 2:
                await gone.wait()
            offsets[number] = await persist(log, number, failures)
        return offsets

    async def write_volatile(log: EventLog) -> None:
        for number in range(1, total + 1):
            if number > total // 2:
                await gone.wait()
            assert await log.append("volatile", event(number), durable=False) == number

    async with opened("redis", tmp_path) as one, opened("redis", tmp_path) as other:
        async with AsyncExitStack() as readers:
            seen = await readers.enter_async_context(reading(one, "durable"))
            seen_by_other = await readers.enter_async_context(reading(other, "durable"))
            volatile = await readers.enter_async_context(reading(other, "volatile"))
            writers = [asyncio.create_task(write((one, other)[first % 2], first)) for first in range(10)]
            writing = asyncio.create_task(write_volatile(one))
            await until(lambda: len(seen) > 100)
            leave(redis, how)
            gone.set()
            await until(lambda: len(failures) >= 10)  # they are told so, though nobody has come back
            assert not writing.done()
            come_back(redis, how)
            be_patient(monkeypatch)
            async with asyncio.timeout(60):
                parts = await asyncio.gather(*writers)
                await writing
            await until(lambda: len(seen) == len(seen_by_other) == len(volatile) == total)
        assert volatile == numbered(1, total)
        offsets = {offset: event(number) for part in parts for number, offset in part.items()}
        whole = [Event(offset, offsets[offset]) for offset in range(1, total + 1)]
        assert seen == seen_by_other == whole == await one.read("durable", 0, total + 1)
    assert all(said.startswith(CANNOT) for said in failures)


async def test_connections_cut_again_and_again_make_no_gap_and_no_repeat(redis: Redis, tmp_path: Path) -> None:
    cuts, written, enough = 0, itertools.count(1), asyncio.Event()

    async def write(log: EventLog) -> None:
        while not enough.is_set():
            number = next(written)
            await log.append("s", event(number), durable=bool(number % 3))

    async with (
        opened("redis", tmp_path, 100_000) as one,
        opened("redis", tmp_path, 100_000) as other,
        reading(other, "s") as seen,
    ):
        await one.append("s", event(0))
        writers = [asyncio.create_task(write(log)) for log in (one, other, one, other)]
        while cuts < 10:
            before = len(seen)
            for which in ("normal", "pubsub"):
                cuts += redis.ask("CLIENT", "KILL", "TYPE", which) != ":0"
            # Those who write go on: what each was at when the connections were cut may have been seen already.
            await until(lambda before=before: len(seen) > before)
        enough.set()
        await asyncio.gather(*writers)
        total = next(written)
        await until(lambda: len(seen) >= total)
        assert [each.offset for each in seen] == list(range(1, total + 1))
        assert sorted(each.data for each in seen) == sorted(event(number) for number in range(total))
        newest = seen[-500:]
        assert newest == await one.read("s", newest[0].offset - 1, 501)


async def test_a_short_restart_is_seen_by_nobody(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as log, reading(log, "s") as seen:
        await fill(log, "s", 10, durable=True)
        redis.kill()
        appends = asyncio.gather(*(log.append("s", event(number)) for number in range(11, 101)))
        entering = asyncio.create_task(log.enter("room", "alice", "phone"))
        marking = asyncio.create_task(log.mark("s", "alice", 3))
        await asyncio.to_thread(redis.start)
        assert await appends == list(range(11, 101))
        assert await entering
        assert (await marking).offset == 3
        await until(lambda: seen == numbered(1, 100))


@away
async def test_who_asks_while_redis_is_away_is_told_in_time_and_all_goes_on_after(
    redis: Redis, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened("redis", tmp_path) as log:
        await fill(log, "s", 3, durable=True)
        monkeypatch.undo()
        leave(redis, how)
        asked = [
            log.append("s", event(4), id="x"),
            log.check(),
            log.mark("s", "alice", 1),
            log.unmark("s", "alice"),
            log.expire("s", 1),
            log.sweep(),
            log.enter("room", "alice", "phone"),
            log.leave("room", "bob", "desk"),
            log.position("s"),
            log.read("s", 0, 10),
            log.present("room"),
            log.marks("alice"),
            log.recovers("s", "", 0),
        ]
        async with asyncio.timeout(60):  # it does not come back before
            answers = await asyncio.gather(*asked, return_exceptions=True)
        be_patient(monkeypatch)
        for answer in answers:
            assert isinstance(answer, OSError)
            assert str(answer).startswith("events cannot be ")
        subscribing = asyncio.create_task(collect(log, "s", 0, 4))  # it waits
        come_back(redis, how)
        async with asyncio.timeout(60):
            await log.check()
            assert await log.append("s", event(4), id="x") == 4
            assert await subscribing == numbered(1, 4)
            assert await log.enter("room", "carol", "phone")


async def test_after_the_loss_of_all_data_readers_are_told(redis: Redis, tmp_path: Path) -> None:
    log = RedisEventLog(url_in(tmp_path), present=1.0)
    await asyncio.gather(fill(log, "idle", 3, durable=True), fill(log, "busy", 3, durable=True))
    before = await log.position("idle")
    await log.enter("room", "alice", "phone")
    idle, busy = aiter(log.subscribe("idle", 0)), aiter(log.subscribe("busy", 0))
    assert await anext(idle) == await anext(busy) == numbered(1, 3)
    redis.ask("FLUSHALL")
    await fill(log, "busy", 10, durable=True)
    async with asyncio.timeout(60):
        for batches in (busy, idle):
            with pytest.raises(PositionLost):
                await anext(batches)
        assert not await log.recovers("idle", before.epoch, 3)
        assert await is_lost(log, "idle", 3)
        assert (await log.position("idle")).epoch != before.epoch
        assert await collect(log, "busy", 0, 10) == numbered(1, 10)
        await eventually(log, "room", ["alice"])  # her process says so again by itself
    await log.close()


async def test_after_a_restart_without_its_data_readers_are_told(tmp_path: Path) -> None:
    with redis_in(tmp_path, appendonly=False) as redis:
        async with opened("redis", tmp_path) as log:
            await fill(log, "s", 300, durable=True)
            before = await log.position("s")
            slow, keen = aiter(log.subscribe("s", 0)), aiter(log.subscribe("s", 300))
            assert await anext(slow) == numbered(1, 256)
            waiting = asyncio.ensure_future(anext(keen))
            redis.kill()
            redis.start()
            async with asyncio.timeout(60):
                for told in (waiting, anext(slow)):
                    with pytest.raises(PositionLost):
                        await told
                assert not await log.recovers("s", before.epoch, 300)
                assert await log.append("s", event(1)) == 1


async def test_events_that_redis_took_back_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    """As after a power cut with appendfsync everysec: the same epoch, and fewer events."""
    with redis_in(tmp_path, appendonly=False) as redis:
        async with opened("redis", tmp_path) as log:
            await fill(log, "s", 3, durable=True)
            assert redis.ask("SAVE") == "+OK"
            await fill(log, "s", 3, durable=True)
            before = await log.position("s")
            batches = aiter(log.subscribe("s", 6))
            waiting = asyncio.ensure_future(anext(batches))
            redis.kill()
            redis.start()
            assert (await log.position("s")).epoch == before.epoch
            async with asyncio.timeout(60):
                with pytest.raises(PositionLost):
                    await waiting
            assert not await log.recovers("s", before.epoch, 6)


async def test_forgotten_scripts_are_brought_again(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as log:
        await log.append("s", event(1))
        appends = [asyncio.create_task(log.append("s", event(number))) for number in range(2, 301)]
        redis.ask("SCRIPT", "FLUSH", "SYNC")
        assert await asyncio.gather(*appends) == list(range(2, 301))
        redis.ask("SCRIPT", "FLUSH", "SYNC")
        assert await log.append("s", event(301)) == 301


async def test_when_its_memory_is_full_durable_appends_are_refused_and_others_wait(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened("redis", tmp_path) as log:
        await fill(log, "s", 3, durable=True)
        monkeypatch.undo()
        monkeypatch.setattr("works.events.redis.store._ANSWER", 60.0)  # what it says is heard, however long that takes
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        results = [asyncio.create_task(log.append("results", event(n), durable=False)) for n in range(1, 6)]
        await until(lambda: "maxmemory" in log._calls._fault)  # type: ignore[attr-defined]
        for refused in await asyncio.gather(log.append("s", event(4)), log.check(), return_exceptions=True):
            assert isinstance(refused, OSError)
            assert str(refused).startswith(CANNOT + "command not allowed when used memory > 'maxmemory'")
        be_patient(monkeypatch)
        assert await log.read("s", 0, 10) == numbered(1, 3)
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert await asyncio.gather(*results) == [1, 2, 3, 4, 5]
        assert await log.append("s", event(4)) == 4


async def test_what_waits_is_bounded(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as log:
        redis.kill()
        size = 8 << 20
        waiting = [asyncio.create_task(log.append("s", "x" * size, durable=False)) for _ in range(7)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=CANNOT + "too much is waiting"):
            await log.append("s", "x" * size, durable=False)
        await asyncio.to_thread(redis.start)
        assert await asyncio.gather(*waiting) == list(range(1, 8))
        assert await log.append("s", "x" * size, durable=False) == 8


async def test_an_orderly_end_does_not_wait_for_redis_to_come_back(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(60):
        async with opened("redis", tmp_path) as log:
            await log.enter("room", "alice", "phone")
            monkeypatch.undo()
            redis.kill()
            waiting = asyncio.create_task(log.append("s", event(1), durable=False))
            await asyncio.sleep(0)
        with pytest.raises(OSError, match=CANNOT):
            await waiting
