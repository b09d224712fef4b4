"""The contract of a Broker, checked with every implementation: offsets, replay followed by live events, retention, lost
events, and fences (events after which nothing may be appended).
"""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.event_stores import collect, event, every_kind, fill, is_lost, numbered, opened
from works.events.broker import Event, Fenced
from works.events.store import EventStore

durably = pytest.mark.parametrize("durable", [True, False], ids=["durable", "volatile"])


@every_kind
@durably
async def test_offsets_grow_by_one_in_each_stream_from_1(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as store:
        assert (await store.broker.position("a")).offset == 0
        for number in (1, 2, 3):
            assert await store.broker.append("a", event(number), durable=durable) == number
        assert await store.broker.append("b", event(1), durable=durable) == 1
        assert (await store.broker.position("a")).offset == 3
        assert (await store.broker.position("a")).epoch != (await store.broker.position("b")).epoch
        assert await store.broker.read("a", 0, 10) == numbered(1, 3)
        assert await store.broker.read("a", 1, 1) == numbered(2, 2)
        assert await store.broker.read("a", 3, 10) == []


@every_kind
async def test_a_thousand_concurrent_appends_get_different_offsets(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        offsets = await asyncio.gather(*(store.broker.append("s", event(number)) for number in range(1000)))
        assert sorted(offsets) == list(range(1, 1001))
        stored = await store.broker.read("s", 0, 2000)
        assert {each.offset: each.data for each in stored} == {
            offset: event(number) for number, offset in enumerate(offsets)
        }


@every_kind
async def test_an_append_repeated_with_its_id_stores_one_event(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        first = await store.broker.append("s", event(1), id="x")
        repeated = await asyncio.gather(*(store.broker.append("s", event(2), id="y") for _ in range(5)))
        assert (first, repeated) == (1, [2] * 5)
        assert await store.broker.append("s", event(99), id="x") == 1
        assert await store.broker.append("another", event(1), id="x") == 1
    async with opened(kind, tmp_path) as store:
        assert await store.broker.append("s", event(99), id="y") == 2
        assert await store.broker.read("s", 0, 10) == numbered(1, 2)


@every_kind
async def test_a_volatile_stream_refuses_ids(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await store.broker.append("s", event(1), durable=False)
        with pytest.raises(ValueError, match="need a durable stream"):
            await store.broker.append("s", event(2), id="x", durable=False)


@every_kind
async def test_a_stream_stays_durable_during_volatile_appends(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        offsets = await asyncio.gather(*(store.broker.append("s", event(n), durable=n == 0) for n in range(20)))
        assert sorted(offsets) == list(range(1, 21))
        assert await store.broker.append("s", event(20), id="x") == 21


@every_kind
@durably
async def test_a_subscriber_receives_stored_events_and_then_new_ones(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 3, durable=durable)
        reading = asyncio.create_task(collect(store.broker, "s", 1, 4))
        waiting = asyncio.create_task(collect(store.broker, "s", 3, 1))
        for number in (4, 5):
            await store.broker.append("s", event(number), durable=durable)
        assert await reading == numbered(2, 5)
        assert (await waiting)[0] == Event(4, event(4))


@every_kind
@durably
async def test_subscribers_that_join_during_appends_see_no_gap_and_no_repetition(
    tmp_path: Path, kind: str, durable: bool
) -> None:
    total, chance = 1200, random.Random(1)

    async def write(store: EventStore, count: int) -> None:
        for number in range(count):
            await store.broker.append("s", event(number), durable=durable)
            if chance.random() < 0.2:
                await asyncio.sleep(0)

    async with opened(kind, tmp_path) as store:
        writers = [asyncio.create_task(write(store, total // 20)) for _ in range(20)]
        readers = []
        for _ in range(20):
            # This append takes time and causes commits, so that the readers start at different moments.
            await store.broker.append("other", "{}")
            readers.append(asyncio.create_task(collect(store.broker, "s", 0, total)))
        await asyncio.gather(*writers)
        whole = await store.broker.read("s", 0, 2 * total)
        for seen in await asyncio.gather(*readers):
            assert seen == whole
        assert [each.offset for each in whole] == list(range(1, total + 1))


@every_kind
@durably
async def test_a_reader_far_behind_receives_all_events(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 3000, durable=durable)
        assert [each.offset for each in await collect(store.broker, "s", 0, 3000)] == list(range(1, 3001))
        assert [each.offset for each in await collect(store.broker, "s", 17, 2983)] == list(range(18, 3001))


@every_kind
async def test_a_reader_that_stops_in_the_middle_does_not_delay_the_writers(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 300, durable=True)
        for number in range(20):
            writing = asyncio.create_task(store.broker.append("s", event(number)))
            # The reader reads from the file. Before such a read, the store writes the events that wait.
            reading = asyncio.create_task(collect(store.broker, "s", 0, 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reading.cancel()
            async with asyncio.timeout(60):
                assert await writing == 301 + number


@every_kind
@durably
async def test_a_position_before_the_retained_events_is_not_recovered(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path, keep=50) as store:
        await fill(store.broker, "s", 400, durable=durable)
        epoch = (await store.broker.position("s")).epoch
        assert [await store.broker.recovers("s", epoch, after) for after in (0, 349, 350, 400, 401)] == [
            False,
            False,
            True,
            True,
            False,
        ]
        assert await is_lost(store.broker, "s", 0)
        assert [each.offset for each in await collect(store.broker, "s", 350, 50)] == list(range(351, 401))


@every_kind
async def test_a_position_that_never_existed_is_not_recovered(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 3, durable=True)
        epoch = (await store.broker.position("s")).epoch
        assert await store.broker.recovers("s", epoch, 3)
        assert not await store.broker.recovers("s", epoch, 4)
        assert not await store.broker.recovers("s", "another epoch", 3)
        assert not await store.broker.recovers("nowhere", epoch, 0)
        assert await is_lost(store.broker, "s", 4)


@every_kind
async def test_a_subscriber_that_falls_behind_the_retained_events_is_notified(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path, keep=50) as store:
        await fill(store.broker, "s", 10, durable=True)
        batches = aiter(store.broker.subscribe("s", 0))
        assert (await anext(batches))[-1].offset == 10
        await fill(store.broker, "s", 600, durable=True)
        await collect(store.broker, "s", 609, 1)  # After this call, the store has received all 610 events.
        with pytest.raises(Exception, match="no longer retained"):
            await anext(batches)


@every_kind
@durably
async def test_the_sweep_deletes_an_expired_stream_which_can_start_again(
    tmp_path: Path, kind: str, durable: bool
) -> None:
    async with opened(kind, tmp_path) as store:
        for stream in ("gone", "kept", "later", "back"):
            await fill(store.broker, stream, 3, durable=durable)
        before = {stream: await store.broker.position(stream) for stream in ("gone", "kept", "later", "back")}
        await store.broker.expire("gone", 0)
        await store.broker.expire("back", 0)
        await store.broker.expire("back", None)
        await store.broker.expire("later", 3600)
        await store.sweep()
        for stream in ("kept", "later", "back"):
            assert await store.broker.position(stream) == before[stream]
            assert await store.broker.read(stream, 0, 10) == numbered(1, 3)
        assert not await store.broker.recovers("gone", before["gone"].epoch, 3)
        assert await store.broker.append("gone", event(1), durable=durable) == 1
        assert (await store.broker.position("gone")).epoch != before["gone"].epoch
        assert await store.broker.read("gone", 0, 10) == numbered(1, 1)


@every_kind
async def test_the_sweep_deletes_a_stream_that_expires_before_its_first_event(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        epoch = (await store.broker.position("s")).epoch
        await store.broker.expire("s", 0)
        assert await store.broker.append("s", event(1), durable=False) == 1
        assert (await store.broker.position("s")).epoch == epoch
        await store.broker.append("other", "{}")  # After this append, every event that waited is written.
        await store.sweep()
        assert (await store.broker.position("s")).offset == 0


@every_kind
async def test_an_expired_stream_is_kept_while_it_has_a_reader(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 2, durable=True)
        batches = aiter(store.broker.subscribe("s", 0))
        await anext(batches)
        await store.broker.expire("s", 0)
        await store.sweep()
        await store.broker.append("s", event(3))
        assert await anext(batches) == numbered(3, 3)
        await batches.aclose()  # type: ignore[attr-defined]
        await store.sweep()
        assert (await store.broker.position("s")).offset == 0


@every_kind
async def test_thousands_of_concurrent_streams_are_kept_separate(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        for lap in (1, 2):
            streams = [f"{'volatile' if number % 2 else 'durable'} {number}" for number in range(3000)]
            appends = (store.broker.append(name, event(lap), durable=name[0] == "d") for name in streams)
            assert set(await asyncio.gather(*appends)) == {lap}
        for name in streams[::100]:
            assert await store.broker.read(name, 0, 10) == numbered(1, 2)


@every_kind
async def test_nothing_is_appended_after_a_fence(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.broker.append("s", event(1), id="x", unless=("end",)) == 1
        assert await store.broker.append("s", event(2), id="end") == 2
        with pytest.raises(Fenced):
            await store.broker.append("s", event(3), id="y", unless=("end",))
        with pytest.raises(Fenced):
            await store.broker.append("s", event(3), unless=("no such", "end"))
        assert await store.broker.append("another", event(1), unless=("end",)) == 1
        assert await store.broker.read("s", 0, 10) == numbered(1, 2)
    async with opened(kind, tmp_path) as store:
        with pytest.raises(Fenced):
            await store.broker.append("s", event(3), unless=("end",))
        assert await store.broker.append("s", event(3)) == 3


@every_kind
async def test_a_repeated_append_from_before_the_fence_returns_its_event(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await store.broker.append("s", event(1), id="x", unless=("end",))
        await store.broker.append("s", event(2), id="end")
        assert await store.broker.append("s", event(99), id="x", unless=("end",)) == 1


@every_kind
async def test_of_many_concurrent_appends_none_follows_the_fence(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        before = (store.broker.append("s", event(1), id=f"{number}", unless=("end",)) for number in range(20))
        after = (store.broker.append("s", event(1), id=f"late {number}", unless=("end",)) for number in range(20))
        end = store.broker.append("s", event(1), id="end")
        done = await asyncio.gather(*before, end, *after, return_exceptions=True)
        assert done[:21] == list(range(1, 22))
        assert all(isinstance(each, Fenced) for each in done[21:])
        assert (await store.broker.position("s")).offset == 21


@every_kind
async def test_a_volatile_stream_refuses_fences(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 1, durable=False)
        with pytest.raises(ValueError, match="need a durable stream"):
            await store.broker.append("s", event(2), unless=("end",), durable=False)
