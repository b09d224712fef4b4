"""The EventLog through what may happen to it: an orderly end, a kill -9, a second process, a disk that is full."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.event_logs import OPENERS, collect, event, fill, is_lost, numbered, opened
from tests.support.running import ROOT, full_disk
from works.events import Event, EventLog, PositionLost

every_kind = pytest.mark.parametrize("kind", OPENERS, indirect=True)
# Appends for ever, two streams by turns, and says which offsets are acknowledged.
WRITER = """
import asyncio, sys
from pathlib import Path
import pytest
from tests.support.event_logs import be_patient, event, opened

async def main(kind, folder):
    be_patient(pytest.MonkeyPatch())
    async with opened(kind, Path(folder)) as log:
        print((await log.position("volatile")).epoch, flush=True)
        for number in range(1, 1_000_000):
            await log.append("volatile", event(number), durable=False)
            print(await log.append("durable", event(number), id=f"id {number}"), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def writer(kind: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the log open and appends; killed with SIGKILL at the end, wherever it is."""
    command = [sys.executable, "-c", WRITER, kind, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def killed(kind: str, folder: Path) -> tuple[str, int]:
    """A writer that was killed while it wrote: the epoch of its volatile stream, and the last offset acknowledged."""
    with writer(kind, folder) as process:
        assert process.stdout
        epoch = process.stdout.readline().strip()
        for _ in range(300):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split("\n")
    return epoch, max([300, *(int(line) for line in rest[:-1])])


@every_kind
async def test_after_a_kill_every_acknowledged_event_is_there_once(tmp_path: Path, kind: str) -> None:
    _, acknowledged = killed(kind, tmp_path)
    async with opened(kind, tmp_path) as log:
        head = (await log.position("durable")).offset
        assert head in (acknowledged, acknowledged + 1)
        assert await log.read("durable", 0, 10**6) == numbered(1, head)
        assert await log.append("durable", event(1), id="id 1") == 1


async def test_after_a_kill_volatile_streams_in_sqlite_begin_anew(tmp_path: Path) -> None:
    epoch, _ = killed("sqlite", tmp_path)
    async with opened("sqlite", tmp_path) as log:
        position = await log.position("volatile")
        assert (position.offset, position.epoch == epoch) == (0, False)
        assert not await log.recovers("volatile", epoch, 0)
        assert await log.append("volatile", event(1), durable=False) == 1


@every_kind
@pytest.mark.parametrize("durable", [True, False])
async def test_after_an_orderly_end_every_stream_goes_on_where_it_was(tmp_path: Path, kind: str, durable: bool) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 700, durable=durable)
        before = await log.position("s")
    for opening in range(2):
        async with opened(kind, tmp_path) as log:
            assert (await log.position("s")).epoch == before.epoch
            assert await log.recovers("s", before.epoch, 0)
            assert await log.append("s", event(701 + opening), durable=durable) == 701 + opening
            assert await collect(log, "s", 0, 701 + opening) == numbered(1, 701 + opening)


@every_kind
async def test_what_is_being_appended_when_it_closes_is_written_and_later_ones_are_refused(
    tmp_path: Path, kind: str
) -> None:
    async with opened(kind, tmp_path) as log:
        await log.append("s", event(1))
        writing = [asyncio.create_task(log.append("s", event(number))) for number in range(2, 301)]
        for _ in range(3):
            await asyncio.sleep(0)  # they begin, and the commit of them is under way when the log closes
    async with asyncio.timeout(60):
        assert await asyncio.gather(*writing) == list(range(2, 301))
        with pytest.raises(OSError, match="closed"):
            await log.append("s", event(301))
    async with opened(kind, tmp_path) as log:
        assert await log.read("s", 0, 1000) == numbered(1, 300)


async def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with writer("sqlite", tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(OSError, match=r"events\.db cannot be opened: another process uses it"):
            OPENERS["sqlite"](tmp_path, 100)
        process.stdout.readline()
    async with opened("sqlite", tmp_path) as log:
        assert (await log.position("durable")).offset >= 1


async def test_a_file_that_is_no_database_or_a_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(OSError, match="cannot be opened: file is not a database"):
        OPENERS["sqlite"](tmp_path, 100)
    (tmp_path / "events.db").unlink()
    (tmp_path / "events.db").mkdir()
    with pytest.raises(OSError, match=r"cannot be opened: .*Is a directory"):
        OPENERS["sqlite"](tmp_path, 100)


async def mark_always(log: EventLog) -> None:
    while True:
        await log.mark("durable True", "alice", 1)
        await log.expire("durable True", 3600)
        await log.check()
        await asyncio.sleep(0)


async def test_what_is_written_is_folded_into_the_file_and_the_journal_stays_short(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as log:
        marking = asyncio.create_task(mark_always(log))
        for number in range(100):
            for durable in (True, False):
                await log.append(f"durable {durable}", event(number) + " " * 100_000, durable=durable)
        assert not marking.done(), "what is written without an event waits while the file is locked"
        marking.cancel()
        assert (tmp_path / "events.db-wal").stat().st_size < 6_000_000
        assert (tmp_path / "events.db").stat().st_size > 10_000_000
    async with opened("sqlite", tmp_path) as log:
        assert [len(await log.read(stream, 0, 1000)) for stream in ("durable True", "durable False")] == [100, 100]


async def test_on_a_full_disk_durable_appends_fail_and_volatile_ones_go_on(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as log:
        await fill(log, "durable", 3, durable=True)
        await fill(log, "volatile", 3, durable=False)
        reading = asyncio.create_task(collect(log, "volatile", 0, 100))
        await log.check()
        with full_disk():
            for id in (None, "x"):
                with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                    await log.append("durable", event(4), id=id)
            with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                await log.check()
            for sweeping in (log.sweep(), log.expire("durable", 1)):
                with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                    await sweeping
            for number in range(4, 101):
                assert await log.append("volatile", event(number), durable=False) == number
            assert await reading == numbered(1, 100)
            assert (await log.position("durable")).offset == 3
        await log.check()
        assert await log.append("durable", event(4), id="x") == 4
    async with opened("sqlite", tmp_path) as log:
        assert await log.read("durable", 0, 10) == numbered(1, 4)
        assert await log.read("volatile", 0, 1000) == numbered(1, 100)


async def flood(log: EventLog, reader: AsyncIterator[list[Event]]) -> None:
    """Volatile events without end, each seen by a reader that keeps up."""
    while True:
        await log.append("flood", "{}", durable=False)
        await anext(reader)
        await asyncio.sleep(0)


async def test_more_than_memory_holds_on_a_full_disk_is_lost_and_told_and_the_log_recovers(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, keep=100_000) as log:
        await fill(log, "flood", 3, durable=False)
        await log.append("durable", event(1))
        before = await log.position("flood")
        with full_disk():
            with pytest.raises(PositionLost):
                await asyncio.wait_for(flood(log, aiter(log.subscribe("flood", 3))), 200)
            with pytest.raises(OSError, match=r"cannot be written: .*(disk|full|I/O)"):
                await log.append("durable", event(2))
        after = await log.position("flood")
        assert after.epoch != before.epoch
        assert not await log.recovers("flood", before.epoch, 3)
        for number in range(after.offset + 1, after.offset + 401):
            assert await log.append("flood", "{}", durable=False) == number
        assert await log.append("durable", event(2)) == 2
    async with opened("sqlite", tmp_path, keep=100_000) as log:
        assert (await log.position("flood")).epoch == after.epoch
        offsets = [each.offset for each in await log.read("flood", 0, 100_000)]
        assert offsets == list(range(1, after.offset + 401))
        assert not await is_lost(log, "flood", 0)
