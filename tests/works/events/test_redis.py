"""The EventStore in Redis when several processes share it. Each store in these tests represents the store of a separate
server process.
"""

import asyncio
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.event_stores import (
    PATIENT,
    collect,
    event,
    eventually,
    fill,
    is_lost,
    numbered,
    opened,
    opened_redis,
)
from tests.support.redis import Redis, redis_in, url_in
from tests.support.running import ROOT, until
from works.events.broker import Broker
from works.events.marks import Mark
from works.events.redis.calls import RedisCall
from works.events.redis.connection import CallConnection, make_pool
from works.events.redis.store import RedisEventStore
from works.events.store import EventStore

# This program enters a guest into a room, and keeps the guest present as a server does, until the program is killed.
GUEST = """
import asyncio, sys
from dataclasses import replace
from tests.support.event_stores import PATIENT
from works.events.redis.store import RedisEventStore

async def main(url):
    store = RedisEventStore(url, 10_000, timeouts=replace(PATIENT, present=1.0))
    await store.presence.enter("room", "guest", "their phone")
    print("there", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

# This script returns the time until which a process counts as a reader of a stream: the entry that expires first.
READ_UNTIL = "return redis.status_reply(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '0')"


@asynccontextmanager
async def two(folder: Path, *, present: float = 60.0) -> AsyncIterator[tuple[EventStore, EventStore]]:
    timeouts = replace(PATIENT, present=present)
    async with opened_redis(folder, timeouts) as one, opened_redis(folder, timeouts) as other:
        yield one, other


@contextmanager
def guest(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Runs another process, which keeps a guest present in the room."""
    command = [sys.executable, "-c", GUEST, url_in(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield process
        finally:
            process.kill()


async def test_two_processes_share_offsets_and_ids(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        for number in range(1, 20, 2):
            assert await one.broker.append("s", event(number), id=f"id {number}") == number
            assert await other.broker.append("s", event(number + 1), id=f"id {number + 1}") == number + 1
        assert await other.broker.append("s", "{}", id="id 1") == 1
        assert await one.broker.append("s", "{}", id="id 20") == 20
        assert await one.broker.position("s") == await other.broker.position("s")
        assert await one.broker.read("s", 0, 100) == await other.broker.read("s", 0, 100) == numbered(1, 20)


async def test_a_stream_that_is_volatile_in_one_process_is_volatile_in_the_other(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        await one.broker.append("s", event(1), durable=False)
        with pytest.raises(ValueError, match="need a durable stream"):
            await other.broker.append("s", event(2), id="x")
        assert await other.broker.append("s", event(2)) == 2


async def test_subscribers_receive_events_of_both_without_a_gap_or_a_repetition(redis: Redis, tmp_path: Path) -> None:
    total = 2000

    async def write(broker: Broker, count: int) -> None:
        for number in range(count):
            await broker.append("s", event(number), durable=bool(number % 3))

    async with two(tmp_path) as (one, other):
        await one.broker.append("s", event(0), durable=True)
        writers = [asyncio.create_task(write(store.broker, total // 20)) for store in (one, other) for _ in range(10)]
        readers = []
        for number in range(20):
            # This append takes time, so that the readers start at different moments.
            await one.broker.append("other", "{}")
            readers.append(asyncio.create_task(collect((one, other)[number % 2].broker, "s", 0, total + 1)))
        await asyncio.gather(*writers)
        whole = await other.broker.read("s", 0, 2 * total)
        assert [each.offset for each in whole] == list(range(1, total + 2))
        async with asyncio.timeout(60):
            for seen in await asyncio.gather(*readers):
                assert seen == whole


async def test_one_process_receives_the_events_of_another_immediately(redis: Redis, tmp_path: Path) -> None:
    # The store also looks for new events without a notice, but with this setting only every 20 minutes.
    async with two(tmp_path, present=3600) as (one, other), asyncio.timeout(60):
        batches = aiter(one.broker.subscribe("s", 0))
        for number in range(1, 102):
            await other.broker.append("s", event(number))
            assert await anext(batches) == numbered(number, number)


async def test_marks_are_shared(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        await fill(one.broker, "s", 5, durable=True)
        assert await one.marks.set("s", "alice", 2) == Mark(2, 5)
        assert await other.marks.set("s", "alice", 1) == Mark(2, 5)
        await other.broker.append("s", event(6))
        assert await one.marks.of_reader("alice") == await other.marks.of_reader("alice") == {"s": Mark(2, 6)}
        await one.marks.remove("s", "alice")
        assert await other.marks.of_reader("alice") == {}


async def test_a_cancelled_call_leaves_no_answer_for_a_later_call(redis: Redis, tmp_path: Path) -> None:
    connection = CallConnection(make_pool(url_in(tmp_path)), 60)

    async def hold(lease: bytes, holder: bytes) -> object:
        call = RedisCall("hold", (lease, holder, 60), asyncio.get_running_loop().create_future())
        return (await connection.execute([call]))[0]

    assert await hold(b"one", b"alice") == 1
    redis.pause()
    cancelled = asyncio.create_task(hold(b"one", b"bob"))
    for _ in range(5):
        await asyncio.sleep(0)  # The call is sent during these turns of the loop.
    cancelled.cancel()
    redis.go_on()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await hold(b"two", b"alice") == 1, "received the answer to bob's call"
    await connection.close()


async def test_after_a_cancelled_connect_the_next_call_connects_and_loads_the_scripts(
    redis: Redis, tmp_path: Path
) -> None:
    """The call is cancelled at 60 different moments: after 0 to 59 turns of the event loop."""
    for turns in range(60):
        redis.ask("SCRIPT", "FLUSH")
        connection = CallConnection(make_pool(url_in(tmp_path)), 60)

        async def check(connection: CallConnection = connection) -> object:
            call = RedisCall("check", (b"x",), asyncio.get_running_loop().create_future())
            return (await connection.execute([call]))[0]

        cancelled = asyncio.create_task(check())
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert await check() == "OK"
        await connection.close()


async def test_users_of_all_processes_are_present(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        assert await one.presence.enter("room", "alice", "phone")
        assert not await other.presence.enter("room", "alice", "laptop")
        assert await other.presence.enter("room", "bob", "laptop")
        assert await one.presence.present("room") == await other.presence.present("room") == ["alice", "bob"]
        assert not await one.presence.leave("room", "alice", "phone")
        assert await other.presence.leave("room", "alice", "laptop")
        assert await one.presence.present("room") == ["bob"]


@pytest.mark.chaos
async def test_only_the_users_of_a_killed_process_are_removed(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path, present=1.0) as (one, other):
        await one.presence.enter("room", "alice", "phone")
        with guest(tmp_path):
            await asyncio.sleep(2.5)  # This is longer than the lifetime of an entry that is not renewed.
            # On a machine that stood still, an entry may expire too early. It is there again after the next renewal.
            await eventually(other.presence, "room", ["alice", "guest"])
        await eventually(other.presence, "room", ["alice"])
        assert await other.presence.enter("room", "guest", "again")


@pytest.mark.chaos
async def test_users_of_a_process_that_ended_orderly_are_removed_immediately(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        async with opened("redis", tmp_path) as other:
            await other.presence.enter("room", "alice", "phone")
            assert await store.presence.present("room") == ["alice"]
        assert await store.presence.present("room") == []


@pytest.mark.chaos
async def test_a_sweep_keeps_a_stream_that_another_process_reads(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path, present=15.0) as (one, other):
        await fill(one.broker, "s", 2, durable=True)
        batches = aiter(one.broker.subscribe("s", 0))
        await anext(batches)
        await other.broker.expire("s", 0)

        def reader_until() -> float:
            """Returns the time until which the process counts as a reader, by the clock of Redis."""
            return float(redis.ask("EVAL", READ_UNTIL, "1", "sluice:readers:s").removeprefix("+"))

        first = reader_until()
        # The reader's process has renewed its entry. It does so after a third of the lifetime.
        await until(lambda: reader_until() > first + 3)
        await other.sweep()
        assert (await other.broker.position("s")).offset == 2
        await other.broker.append("s", event(3))
        assert await anext(batches) == numbered(3, 3)
        await batches.aclose()  # type: ignore[attr-defined]
        await one.check()  # After this call, the store has sent everything that it had to send to Redis.
        await other.sweep()
        assert (await other.broker.position("s")).offset == 0


async def test_a_sweep_deletes_many_expired_streams_except_those_with_readers(redis: Redis, tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        streams = [f"s {number}" for number in range(1200)]
        await asyncio.gather(*(one.broker.append(stream, event(1)) for stream in streams))
        read = [aiter(other.broker.subscribe(stream, 0)) for stream in streams[:700]]
        await asyncio.gather(*(anext(batches) for batches in read))
        await asyncio.gather(*(one.broker.expire(stream, 0) for stream in streams))
        await one.sweep()
        heads = [position.offset for position in await asyncio.gather(*(one.broker.position(name) for name in streams))]
        assert heads == [1] * 700 + [0] * 500


async def test_a_stream_without_an_expiry_is_deleted_a_day_after_its_last_use(redis: Redis, tmp_path: Path) -> None:
    def due() -> str:
        return redis.ask("ZCOUNT", "sluice:due", str(time.time() + 80_000), str(time.time() + 90_000))

    async with opened("redis", tmp_path) as store:
        await store.broker.append("durable", event(1))
        assert due() == ":0"
        await store.broker.append("volatile", event(1), durable=False)
        await store.broker.position("empty")
        assert due() == ":2"
        await store.broker.expire("volatile", 5)
        await store.broker.append("volatile", event(2), durable=False)
        assert due() == ":1"
        await store.broker.expire("volatile", None)
        await store.broker.append("empty", event(1))
        assert due() == ":1"


async def test_ids_are_retained_as_long_as_their_events(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path, keep=50) as store:
        await asyncio.gather(*(store.broker.append("s", event(number), id=f"id {number}") for number in range(200)))
        assert (redis.ask("HLEN", "sluice:ids:s"), redis.ask("XLEN", "sluice:events:s")) == (":50", ":50")
        assert await store.broker.append("s", "{}", id="id 199") == 200
        assert await store.broker.append("s", "{}", id="id 1") == 201
    async with opened("redis", tmp_path, keep=10) as store:
        await store.broker.append("s", "{}")
        assert (redis.ask("HLEN", "sluice:ids:s"), redis.ask("XLEN", "sluice:events:s")) == (":10", ":10")


async def test_databases_of_one_redis_are_separate_services(redis: Redis, tmp_path: Path) -> None:
    other = RedisEventStore(url_in(tmp_path)[:-1] + "1", 10_000, timeouts=PATIENT)
    async with opened("redis", tmp_path) as store:
        readings = [asyncio.create_task(collect(each.broker, "s", 0, 300)) for each in (store, other)]
        await asyncio.gather(fill(store.broker, "s", 300, durable=True), fill(other.broker, "s", 300, durable=False))
        async with asyncio.timeout(60):
            assert await asyncio.gather(*readings) == [numbered(1, 300)] * 2
        assert await store.broker.position("s") != await other.broker.position("s")
        await other.close()


async def test_a_redis_that_requires_a_password(tmp_path: Path) -> None:
    with redis_in(tmp_path, requirepass="open sesame"):
        store = RedisEventStore(url_in(tmp_path).replace("//", "//:open%20sesame@"), 10_000, timeouts=PATIENT)
        assert await store.broker.append("s", event(1)) == 1
        assert await collect(store.broker, "s", 0, 1) == numbered(1, 1)
        await store.close()
        # The store repeats its calls as long as Redis answers with an error, but each caller waits at most ``patience``
        # seconds.
        timeouts = replace(PATIENT, patience=0.5)
        store = RedisEventStore(url_in(tmp_path).replace("//", "//:wrong@"), 10_000, timeouts=timeouts)
        waiting = asyncio.create_task(store.broker.append("s", event(1), durable=False))
        await until(lambda: re.search("WRONGPASS|invalid", store._calls.fault))
        with pytest.raises(OSError, match=r"cannot be written: .*(WRONGPASS|invalid)"):
            await store.broker.append("s", event(2))
        waiting.cancel()
        await store.close()


async def test_a_string_that_cannot_be_written_affects_no_other_append(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        appends = (store.broker.append("s", data) for data in (event(1), "\ud800", event(2)))
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [answers[0], answers[2]] == [1, 2]
        assert isinstance(answers[1], ValueError)


async def test_positions_outside_the_range_of_offsets_are_answered(redis: Redis, tmp_path: Path) -> None:
    async with opened("redis", tmp_path) as store:
        await store.broker.append("s", event(1))
        epoch = (await store.broker.position("s")).epoch
        for after in (-1, -(10**30), 2, 2**63, 2**64, 10**30):
            assert not await store.broker.recovers("s", epoch, after)
            assert await is_lost(store.broker, "s", after)
        assert await store.broker.read("s", 10**30, 10) == []


async def test_a_store_can_be_closed_at_any_moment_while_it_connects(redis: Redis, tmp_path: Path) -> None:
    chance = random.Random(1)
    for _ in range(300):
        async with asyncio.timeout(60), opened("redis", tmp_path) as store:
            subscription = asyncio.ensure_future(anext(aiter(store.broker.subscribe("s", 0))))
            await asyncio.wait([subscription], timeout=chance.random() * 0.005)
            subscription.cancel()
