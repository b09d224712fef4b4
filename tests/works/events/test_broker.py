"""The promise of an EventLog, over every implementation: offsets, replay then live, retention, what is lost is told."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.event_logs import OPENERS, collect, event, fill, is_lost, numbered, opened
from tests.support.running import ROOT
from works.events import Event, EventLog
from works.events.open import open_events

every_kind = pytest.mark.parametrize("kind", OPENERS, indirect=True)
durably = pytest.mark.parametrize("durable", [True, False], ids=["durable", "volatile"])


@every_kind
@durably
async def test_offsets_grow_by_one_in_each_stream_from_1(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as log:
        assert (await log.position("a")).offset == 0
        for number in (1, 2, 3):
            assert await log.append("a", event(number), durable=durable) == number
        assert await log.append("b", event(1), durable=durable) == 1
        assert (await log.position("a")).offset == 3
        assert (await log.position("a")).epoch != (await log.position("b")).epoch
        assert await log.read("a", 0, 10) == numbered(1, 3)
        assert await log.read("a", 1, 1) == numbered(2, 2)
        assert await log.read("a", 3, 10) == []


@every_kind
async def test_a_thousand_appends_at_once_each_get_an_offset_of_their_own(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        offsets = await asyncio.gather(*(log.append("s", event(number)) for number in range(1000)))
        assert sorted(offsets) == list(range(1, 1001))
        stored = await log.read("s", 0, 2000)
        assert {each.offset: each.data for each in stored} == {
            offset: event(number) for number, offset in enumerate(offsets)
        }


@every_kind
async def test_an_append_repeated_with_its_id_is_the_same_event(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        first = await log.append("s", event(1), id="x")
        at_once = await asyncio.gather(*(log.append("s", event(2), id="y") for _ in range(5)))
        assert (first, at_once) == (1, [2] * 5)
        assert await log.append("s", event(99), id="x") == 1
        assert await log.append("another", event(1), id="x") == 1
    async with opened(kind, tmp_path) as log:
        assert await log.append("s", event(99), id="y") == 2
        assert await log.read("s", 0, 10) == numbered(1, 2)


@every_kind
async def test_a_volatile_stream_takes_no_ids(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await log.append("s", event(1), durable=False)
        with pytest.raises(ValueError, match="no ids"):
            await log.append("s", event(2), id="x", durable=False)


@every_kind
async def test_a_stream_begun_durably_stays_so_whatever_is_appended_meanwhile(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        offsets = await asyncio.gather(*(log.append("s", event(n), durable=n == 0) for n in range(20)))
        assert sorted(offsets) == list(range(1, 21))
        assert await log.append("s", event(20), id="x") == 21


@every_kind
@durably
async def test_a_subscriber_gets_what_is_there_and_then_what_comes(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 3, durable=durable)
        reading = asyncio.create_task(collect(log, "s", 1, 4))
        waiting = asyncio.create_task(collect(log, "s", 3, 1))
        for number in (4, 5):
            await log.append("s", event(number), durable=durable)
        assert await reading == numbered(2, 5)
        assert (await waiting)[0] == Event(4, event(4))


@every_kind
@durably
async def test_no_gap_and_no_repeat_however_many_append_while_subscribers_come(
    tmp_path: Path, kind: str, durable: bool
) -> None:
    total, chance = 1200, random.Random(1)

    async def write(log: EventLog, count: int) -> None:
        for number in range(count):
            await log.append("s", event(number), durable=durable)
            if chance.random() < 0.2:
                await asyncio.sleep(0)

    async with opened(kind, tmp_path) as log:
        writers = [asyncio.create_task(write(log, total // 20)) for _ in range(20)]
        readers = []
        for _ in range(20):
            await log.append("other", "{}")  # time passes, in commits
            readers.append(asyncio.create_task(collect(log, "s", 0, total)))
        await asyncio.gather(*writers)
        whole = await log.read("s", 0, 2 * total)
        for seen in await asyncio.gather(*readers):
            assert seen == whole
        assert [each.offset for each in whole] == list(range(1, total + 1))


@every_kind
@durably
async def test_a_reader_far_behind_is_given_everything(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 3000, durable=durable)
        assert [each.offset for each in await collect(log, "s", 0, 3000)] == list(range(1, 3001))
        assert [each.offset for each in await collect(log, "s", 17, 2983)] == list(range(18, 3001))


@every_kind
async def test_a_reader_that_goes_away_in_the_middle_does_not_hold_up_the_writers(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 300, durable=True)
        for number in range(20):
            writing = asyncio.create_task(log.append("s", event(number)))
            reading = asyncio.create_task(collect(log, "s", 0, 1))  # from the file, for which what waits is written
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reading.cancel()
            async with asyncio.timeout(60):
                assert await writing == 301 + number


@every_kind
@durably
async def test_beyond_what_is_kept_a_position_is_not_recovered_and_its_reader_told(
    tmp_path: Path, kind: str, durable: bool
) -> None:
    async with opened(kind, tmp_path, keep=50) as log:
        await fill(log, "s", 400, durable=durable)
        epoch = (await log.position("s")).epoch
        assert [await log.recovers("s", epoch, after) for after in (0, 349, 350, 400, 401)] == [
            False,
            False,
            True,
            True,
            False,
        ]
        assert await is_lost(log, "s", 0)
        assert [each.offset for each in await collect(log, "s", 350, 50)] == list(range(351, 401))


@every_kind
async def test_a_position_that_never_was_is_not_recovered_and_its_reader_told_at_once(
    tmp_path: Path, kind: str
) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 3, durable=True)
        epoch = (await log.position("s")).epoch
        assert await log.recovers("s", epoch, 3)
        assert not await log.recovers("s", epoch, 4)
        assert not await log.recovers("s", "another epoch", 3)
        assert not await log.recovers("nowhere", epoch, 0)
        assert await is_lost(log, "s", 4)


@every_kind
async def test_a_subscriber_that_falls_behind_what_is_kept_is_told(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path, keep=50) as log:
        await fill(log, "s", 10, durable=True)
        batches = aiter(log.subscribe("s", 0))
        assert (await anext(batches))[-1].offset == 10
        await fill(log, "s", 600, durable=True)
        await collect(log, "s", 609, 1)  # by now the log itself has heard of them all
        with pytest.raises(Exception, match="no longer kept"):
            await anext(batches)


@every_kind
@durably
async def test_an_expired_stream_is_forgotten_by_the_sweep_and_begins_anew(
    tmp_path: Path, kind: str, durable: bool
) -> None:
    async with opened(kind, tmp_path) as log:
        for stream in ("gone", "kept", "later", "back"):
            await fill(log, stream, 3, durable=durable)
        before = {stream: await log.position(stream) for stream in ("gone", "kept", "later", "back")}
        await log.expire("gone", 0)
        await log.expire("back", 0)
        await log.expire("back", None)
        await log.expire("later", 3600)
        await log.sweep()
        for stream in ("kept", "later", "back"):
            assert await log.position(stream) == before[stream]
            assert await log.read(stream, 0, 10) == numbered(1, 3)
        assert not await log.recovers("gone", before["gone"].epoch, 3)
        assert await log.append("gone", event(1), durable=durable) == 1
        assert (await log.position("gone")).epoch != before["gone"].epoch
        assert await log.read("gone", 0, 10) == numbered(1, 1)


@every_kind
async def test_a_stream_that_expires_before_its_first_event_is_forgotten_too(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        epoch = (await log.position("s")).epoch
        await log.expire("s", 0)
        assert await log.append("s", event(1), durable=False) == 1
        assert (await log.position("s")).epoch == epoch
        await log.append("other", "{}")  # all that waits is written
        await log.sweep()
        assert (await log.position("s")).offset == 0


@every_kind
async def test_a_stream_that_somebody_reads_is_not_forgotten_until_they_leave(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 2, durable=True)
        batches = aiter(log.subscribe("s", 0))
        await anext(batches)
        await log.expire("s", 0)
        await log.sweep()
        await log.append("s", event(3))
        assert await anext(batches) == numbered(3, 3)
        await batches.aclose()  # type: ignore[attr-defined]
        await log.sweep()
        assert (await log.position("s")).offset == 0


@every_kind
async def test_thousands_of_streams_at_once_are_all_kept_apart(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        for lap in (1, 2):
            streams = [f"{'volatile' if number % 2 else 'durable'} {number}" for number in range(3000)]
            appends = (log.append(name, event(lap), durable=name[0] == "d") for name in streams)
            assert set(await asyncio.gather(*appends)) == {lap}
        for name in streams[::100]:
            assert await log.read(name, 0, 10) == numbered(1, 2)


@pytest.mark.parametrize("url", ["", "sqlite", "sqlite:", "redis:", "rediss://", "redi://localhost", "/var/events.db"])
async def test_a_url_of_an_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the known kinds are sqlite:FILE, redis://"):
        open_events(url, 100)


@pytest.mark.parametrize("url", ["redi://user:secret@localhost", "redis://user:secret@localhost:port/0"])
async def test_what_is_said_of_a_url_is_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis?://\*\*\*@localhost") as told:
        open_events(url, 100)
    assert "secret" not in str(told.value)


def test_without_its_package_redis_is_refused_with_a_hint_and_sqlite_is_not() -> None:
    script = """
import sys
sys.modules["redis"] = None  # as when it is not installed
from works.events.open import open_events
try:
    open_events("redis://localhost/0", 100)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "make extras" in done.stdout
