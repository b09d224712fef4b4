"""The Broker in one SQLite file. Commits are grouped and run on the loop; waiting for the disk runs in a thread.

While the disk makes a group durable, the next group collects. So a thousand concurrent durable appends need only a few
fsyncs. A volatile event has its offset immediately and is written with the next group, at most half a second later. The
newest events of each stream in use are also in memory, so a reader without a backlog never waits for the file.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from works.background import BackgroundTasks
from works.events.broker import Event, Fenced, Position, PositionLost
from works.events.sqlite import tables
from works.events.sqlite.disk import Disk
from works.events.sqlite.streams import StreamCache
from works.events.sqlite.tables import TAIL, PendingWrite, StoredStream, os_errors

# Seconds after which volatile events are written, and how many may wait, for example while the disk is full.
_LINGER = 0.5
_MOST_UNWRITTEN = 10_000


class SqliteBroker:
    """``keep``: events that a stream retains; the oldest are dropped first."""

    def __init__(self, disk: Disk, streams: StreamCache, keep: int, background: BackgroundTasks) -> None:
        self._disk, self._database, self._streams, self._keep = disk, disk.database, streams, keep
        self._group: list[PendingWrite] = []
        self._committing = asyncio.Lock()
        self._urgent = asyncio.Event()
        self._closing = False
        self._writer = background.start("event writer", self._write_groups)

    async def position(self, stream: str) -> Position:
        state = self._streams.get(stream)
        return Position(state.epoch, state.head)

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        """As in Broker. Raises Fenced, OSError or ValueError."""
        state = self._streams.get(stream)
        if self._closing:
            raise OSError("the event store is closed")
        if not (durable or state.head or state.unwritten):
            state.volatile = True
        if not state.volatile:
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            state.unwritten += 1
            self._group.append(PendingWrite(stream, state, data, id=id, done=done, unless=unless))
            self._urgent.set()
            return await done
        if id is not None or unless:
            raise ValueError("id and unless need a durable stream")
        event = Event(state.head + 1, data)
        state.add(event)
        state.unwritten += 1
        self._group.append(PendingWrite(stream, state, data, offset=event.offset, durable=durable))
        if durable and not await self._commit():
            raise OSError("the event could not be written yet")
        elif state.unwritten >= TAIL // 2:
            self._urgent.set()
        return event.offset

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        state = self._streams.get(stream)
        return state.epoch == epoch and max(0, state.head - self._keep) <= after <= state.head

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        return await self._read(stream, self._streams.get(stream), after, limit)

    async def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """As in Broker. Raises PositionLost."""
        state = self._streams.get(stream)
        state.readers += 1
        try:
            while True:
                if state.head == after and not state.lost:
                    state.changed = state.changed or asyncio.Event()
                    await state.changed.wait()
                events = await self._read(stream, state, after, TAIL)
                if state.lost or not events or events[0].offset != after + 1:
                    raise PositionLost(f"events after {after} are no longer retained")
                after = events[-1].offset
                yield events
        finally:
            state.readers -= 1

    async def expire(self, stream: str, seconds: float | None) -> None:
        at = None if seconds is None else time.time() + seconds
        async with self._disk.writing():
            tables.expire(self._database, stream, self._streams.get(stream), at)

    async def sweep(self) -> None:
        """Writes pending events, then deletes expired streams without a reader. Raises OSError."""
        await self._commit()
        with os_errors():
            due = tables.due(self._database, time.time())
        for name in due:
            async with self._disk.writing():
                if self._streams.forget(name):
                    tables.forget(self._database, name)
            await asyncio.sleep(0)

    async def close(self) -> bool:
        """Accepts no more events and writes the pending ones. Returns False when they cannot be written."""
        self._closing = True
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        return await self._commit()

    async def _read(self, stream: str, state: StoredStream, after: int, limit: int) -> list[Event]:
        limit = min(limit, state.head - after)
        if limit <= 0:
            return []
        if state.tail and state.tail[0].offset <= after + 1:
            skip = after + 1 - state.tail[0].offset
            return list(state.tail)[skip : skip + limit]
        if state.volatile and state.unwritten and not await self._commit():
            return []  # the file does not have all events of this stream yet
        await asyncio.sleep(0)  # lets other code of the loop run while a reader has a long backlog
        with os_errors("read"):
            return tables.read_events(self._database, stream, after, limit)

    async def _write_groups(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LINGER):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            if not await self._commit():
                await asyncio.sleep(_LINGER)

    async def _commit(self) -> bool:
        """Writes all pending events and returns whether it worked. It continues when its caller is cancelled, because
        others wait.
        """
        return await asyncio.shield(asyncio.create_task(self._write_group()))

    async def _write_group(self) -> bool:
        """When the group cannot be written, its volatile events stay pending and its durable ones are refused."""
        async with self._committing:
            group, self._group = self._group, []
            if not group:
                return True
            try:
                with os_errors():
                    offsets = tables.write_events(self._database, group, self._keep)
            except OSError as error:
                self._put_back(group, error)
                return False
            except Exception as error:  # A repetition would fail the same way, so no caller should wait for it.
                self._drop(group, OSError(f"not written: {error}"))
                raise
            try:
                if any(write.durable for write in group):
                    await self._disk.sync()
                await self._disk.fold()
                failed = None
            except OSError as error:
                failed = error
            self._written(group, offsets, failed)
            return not failed

    def _written(self, group: list[PendingWrite], offsets: list[int], failed: OSError | None) -> None:
        """Completes the writes. ``failed``: they are in the file but may not survive a power cut, so their callers get
        this error.
        """
        for write, offset in zip(group, offsets, strict=True):
            write.stream.unwritten -= 1
            if write.done is None:
                continue
            if offset > write.stream.head:
                write.stream.add(Event(offset, write.data))
            if write.done.done():
                continue
            if failed:
                write.done.set_exception(failed)
            elif not offset:
                write.done.set_exception(Fenced(f"{write.name} has one of {', '.join(write.unless)}"))
            else:
                write.done.set_result(offset)

    def _drop(self, group: list[PendingWrite], error: OSError) -> None:
        for write in group:
            write.stream.unwritten -= 1
            if write.done and not write.done.done():
                write.done.set_exception(error)
        for name in {write.name for write in group if write.done is None}:
            self._streams.begin_again(name)  # its events were sent to readers, but are not in the file

    def _put_back(self, group: list[PendingWrite], error: OSError) -> None:
        for write in group:
            if write.done:
                write.stream.unwritten -= 1
                if not write.done.done():
                    write.done.set_exception(error)
        waiting = [write for write in group if write.done is None]
        too_many = {write.stream: write.name for write in waiting[:-_MOST_UNWRITTEN]}
        self._group = [write for write in waiting + self._group if write.stream not in too_many]
        for name in too_many.values():
            self._streams.begin_again(name)
