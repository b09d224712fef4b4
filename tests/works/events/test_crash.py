"""An EventStore after an orderly close and after a kill -9, with a second process on the same file, and with a full
disk.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.event_stores import OPENERS, collect, event, every_kind, fill, is_lost, numbered, opened, persist
from tests.support.running import ROOT, full_disk
from works.events.broker import Broker, Event, PositionLost
from works.events.store import EventStore

# This program appends without end to two streams in turn, and prints the offsets that the store acknowledges.
WRITER = """
import asyncio, sys
from pathlib import Path
from tests.support.event_stores import event, opened

async def main(kind, folder):
    async with opened(kind, Path(folder)) as store:
        print((await store.broker.position("volatile")).epoch, flush=True)
        for number in range(1, 1_000_000):
            await store.broker.append("volatile", event(number), durable=False)
            print(await store.broker.append("durable", event(number), id=f"id {number}"), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def writer(kind: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Runs another process that has the store open and appends to it. The process is killed with SIGKILL at the end,
    whatever it is doing.
    """
    command = [sys.executable, "-c", WRITER, kind, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def killed(kind: str, folder: Path) -> tuple[str, int]:
    """Kills a writer while it writes. Returns the epoch of its volatile stream and the last offset that was
    acknowledged.
    """
    with writer(kind, folder) as process:
        assert process.stdout
        epoch = process.stdout.readline().strip()
        for _ in range(300):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split("\n")
    return epoch, max([300, *(int(line) for line in rest[:-1])])


@every_kind
async def test_after_a_kill_every_acknowledged_event_is_stored_once(tmp_path: Path, kind: str) -> None:
    _, acknowledged = killed(kind, tmp_path)
    async with opened(kind, tmp_path) as store:
        head = (await store.broker.position("durable")).offset
        assert head in (acknowledged, acknowledged + 1)
        assert await store.broker.read("durable", 0, 10**6) == numbered(1, head)
        assert await store.broker.append("durable", event(1), id="id 1") == 1


async def test_after_a_kill_volatile_streams_in_sqlite_start_again(tmp_path: Path) -> None:
    epoch, _ = killed("sqlite", tmp_path)
    async with opened("sqlite", tmp_path) as store:
        position = await store.broker.position("volatile")
        assert (position.offset, position.epoch == epoch) == (0, False)
        assert not await store.broker.recovers("volatile", epoch, 0)
        assert await store.broker.append("volatile", event(1), durable=False) == 1


@every_kind
@pytest.mark.parametrize("durable", [True, False])
async def test_after_an_orderly_close_every_stream_continues(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 700, durable=durable)
        before = await store.broker.position("s")
    for opening in range(2):
        async with opened(kind, tmp_path) as store:
            assert (await store.broker.position("s")).epoch == before.epoch
            assert await store.broker.recovers("s", before.epoch, 0)
            assert await store.broker.append("s", event(701 + opening), durable=durable) == 701 + opening
            assert await collect(store.broker, "s", 0, 701 + opening) == numbered(1, 701 + opening)


@every_kind
async def test_appends_in_progress_at_the_close_are_written_and_later_ones_are_refused(
    tmp_path: Path, kind: str
) -> None:
    async with opened(kind, tmp_path) as store:
        await store.broker.append("s", event(1))
        writing = [asyncio.create_task(store.broker.append("s", event(number))) for number in range(2, 301)]
        for _ in range(3):
            await asyncio.sleep(0)  # The appends have started, and their commit is in progress when the store closes.
    async with asyncio.timeout(60):
        assert await asyncio.gather(*writing) == list(range(2, 301))
        with pytest.raises(OSError, match="closed"):
            await store.broker.append("s", event(301))
    async with opened(kind, tmp_path) as store:
        assert await store.broker.read("s", 0, 1000) == numbered(1, 300)


async def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with writer("sqlite", tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(OSError, match=r"events\.db cannot be opened: another process uses the file"):
            OPENERS["sqlite"](tmp_path, 100)
        process.stdout.readline()
    async with opened("sqlite", tmp_path) as store:
        assert (await store.broker.position("durable")).offset >= 1


async def test_a_file_that_is_not_a_database_or_is_a_folder_raises_oserror(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(OSError, match="cannot be opened: file is not a database"):
        OPENERS["sqlite"](tmp_path, 100)
    (tmp_path / "events.db").unlink()
    (tmp_path / "events.db").mkdir()
    with pytest.raises(OSError, match=r"cannot be opened: .*Is a directory"):
        OPENERS["sqlite"](tmp_path, 100)


async def mark_always(store: EventStore) -> None:
    while True:
        await store.marks.set("durable True", "alice", 1)
        await store.broker.expire("durable True", 3600)
        await store.check()
        await asyncio.sleep(0)


async def test_checkpoints_move_events_into_the_file_and_the_wal_stays_short(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        marking = asyncio.create_task(mark_always(store))
        for number in range(100):
            for durable in (True, False):
                await store.broker.append(f"durable {durable}", event(number) + " " * 100_000, durable=durable)
        assert not marking.done(), "writing marks failed while the WAL was copied into the file"
        marking.cancel()
        assert (tmp_path / "events.db-wal").stat().st_size < 6_000_000
        assert (tmp_path / "events.db").stat().st_size > 10_000_000
    async with opened("sqlite", tmp_path) as store:
        for stream in ("durable True", "durable False"):
            assert len(await store.broker.read(stream, 0, 1000)) == 100


async def test_on_a_full_disk_durable_appends_fail_and_volatile_ones_continue(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await fill(store.broker, "durable", 3, durable=True)
        await fill(store.broker, "volatile", 3, durable=False)
        reading = asyncio.create_task(collect(store.broker, "volatile", 0, 100))
        await store.check()
        with full_disk():
            for id in (None, "x"):
                with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                    await store.broker.append("durable", event(4), id=id)
            with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                await store.check()
            for sweeping in (store.sweep(), store.broker.expire("durable", 1)):
                with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                    await sweeping
            for number in range(4, 101):
                assert await store.broker.append("volatile", event(number), durable=False) == number
            assert await reading == numbered(1, 100)
            assert (await store.broker.position("durable")).offset == 3
        await store.check()
        assert await store.broker.append("durable", event(4), id="x") == 4
    async with opened("sqlite", tmp_path) as store:
        assert await store.broker.read("durable", 0, 10) == numbered(1, 4)
        assert await store.broker.read("volatile", 0, 1000) == numbered(1, 100)


async def flood(broker: Broker, reader: AsyncIterator[list[Event]]) -> None:
    """Appends volatile events without end. The reader receives each event before the next append."""
    while True:
        await broker.append("flood", "{}", durable=False)
        await anext(reader)
        await asyncio.sleep(0)


async def test_on_a_full_disk_readers_are_notified_of_lost_events_and_the_store_recovers(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, keep=100_000) as store:
        await fill(store.broker, "flood", 3, durable=False)
        await store.broker.append("durable", event(1))
        before = await store.broker.position("flood")
        with full_disk():
            with pytest.raises(PositionLost):
                await asyncio.wait_for(flood(store.broker, aiter(store.broker.subscribe("flood", 3))), 200)
            with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                await store.broker.append("durable", event(2))
        after = await store.broker.position("flood")
        assert after.epoch != before.epoch
        assert not await store.broker.recovers("flood", before.epoch, 3)
        for number in range(after.offset + 1, after.offset + 401):
            assert await store.broker.append("flood", "{}", durable=False) == number
        assert await store.broker.append("durable", event(2)) == 2
    async with opened("sqlite", tmp_path, keep=100_000) as store:
        assert (await store.broker.position("flood")).epoch == after.epoch
        offsets = [each.offset for each in await store.broker.read("flood", 0, 100_000)]
        assert offsets == list(range(1, after.offset + 401))
        assert not await is_lost(store.broker, "flood", 0)


async def test_an_event_that_cannot_be_written_is_refused_and_delays_no_other(tmp_path: Path) -> None:
    """SQLite stores no lone surrogate (half of a UTF-16 pair). Events that wait for the same commit must not wait for
    ever.
    """
    async with opened("sqlite", tmp_path) as store, asyncio.timeout(60):
        outcomes = await asyncio.gather(
            store.broker.append("good", event(1)), store.broker.append("bad", "\ud800"), return_exceptions=True
        )
        assert any(isinstance(outcome, OSError) for outcome in outcomes)
        await persist(lambda: store.broker.append("good", event(2)))
        await collect(store.broker, "good", 0, 1)
