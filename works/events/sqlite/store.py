"""The EventLog in one SQLite file: commits grouped, on the loop, and the disk waited for in a thread.

While the disk makes a group durable the next one collects, so a thousand durable appends at once cost a few fsyncs.
Volatile events have their offset at once and are written with the next group, at the latest after half a second. The
newest events of a stream in use stand in memory too, so a reader who keeps up never waits for the file.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from works.events import Event, Fenced, Mark, Position, PositionLost
from works.events.sqlite import tables
from works.events.sqlite.disk import Disk
from works.events.sqlite.tables import TAIL, PendingWrite, StoredStream, os_errors

# Seconds after which volatile events are written, and how many wait at most, also while the disk is full.
_LINGER = 0.5
_MOST_UNWRITTEN = 10_000
# Streams in memory, more than one process has connections; beyond this many, those that nobody reads and that are
# written are dropped from it.
_STREAMS = 20_000


class SqliteEventLog:
    """``keep`` is how many events a stream holds; the oldest go first. One process at a time may open the file."""

    def __init__(self, path: Path, keep: int = 10_000) -> None:
        self._keep = keep
        self._streams: dict[str, StoredStream] = {}
        self._group: list[PendingWrite] = []
        self._committing = asyncio.Lock()
        self._urgent = asyncio.Event()
        self._folding = asyncio.Lock()
        self._closing = False
        # Who is present, by room and user: their connections. One process, so nobody's presence outlives it.
        self._rooms: dict[str, dict[str, set[str]]] = {}
        # Who has which lease, until when; it ends with this process, too.
        self._leases: dict[str, tuple[str, float]] = {}
        try:
            self._disk = Disk(path)
        except OSError as error:
            raise OSError(f"events {path} cannot be opened: {error}") from error
        self._database = self._disk.database
        self._writer = asyncio.get_running_loop().create_task(self._write_groups())

    @property
    def syncs(self) -> int:
        return self._disk.syncs

    async def position(self, stream: str) -> Position:
        state = self._state(stream)
        return Position(state.epoch, state.head)

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        state = self._state(stream)
        if self._closing:
            raise OSError("the event log is closed")
        if not (durable or state.head or state.unwritten):
            state.volatile = True
        if not state.volatile:
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            state.unwritten += 1
            self._group.append(PendingWrite(stream, state, data, id=id, done=done, unless=unless))
            self._urgent.set()
            return await done
        if id is not None or unless:
            raise ValueError("a volatile stream takes no ids")
        event = Event(state.head + 1, data)
        state.add(event)
        state.unwritten += 1
        self._group.append(PendingWrite(stream, state, data, offset=event.offset, durable=durable))
        if durable and not await self._commit():
            raise OSError("the event is not yet written")
        elif state.unwritten >= TAIL // 2:
            self._urgent.set()
        return event.offset

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        state = self._state(stream)
        return state.epoch == epoch and max(0, state.head - self._keep) <= after <= state.head

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        return await self._read(stream, self._state(stream), after, limit)

    async def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        state = self._state(stream)
        state.readers += 1
        try:
            while True:
                if state.head == after and not state.lost:
                    state.changed = state.changed or asyncio.Event()
                    await state.changed.wait()
                events = await self._read(stream, state, after, TAIL)
                if state.lost or not events or events[0].offset != after + 1:
                    raise PositionLost(f"events after {after} are no longer kept")
                after = events[-1].offset
                yield events
        finally:
            state.readers -= 1

    async def mark(self, stream: str, reader: str, offset: int) -> Mark:
        state = self._state(stream)
        async with self._writing():
            return Mark(tables.mark(self._database, stream, state, reader, min(offset, state.head)), state.head)

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        async with self._writing():
            return tables.advance(self._database, stream, reader, min(offset, self._state(stream).head))

    async def unmark(self, stream: str, reader: str) -> None:
        async with self._writing():
            tables.unmark(self._database, stream, reader)

    async def marks(self, reader: str) -> dict[str, Mark]:
        with os_errors("read"):
            return tables.marks(self._database, reader)

    async def enter(self, room: str, user: str, connection: str) -> bool:
        users = self._rooms.setdefault(room, {})
        first = user not in users
        users.setdefault(user, set()).add(connection)
        return first

    async def leave(self, room: str, user: str, connection: str) -> bool:
        users = self._rooms.get(room, {})
        connections = users.get(user, set())
        connections.discard(connection)
        if connections:
            return False
        gone = users.pop(user, None) is not None
        if not users:
            self._rooms.pop(room, None)
        return gone

    async def present(self, room: str) -> list[str]:
        return sorted(self._rooms.get(room, {}))

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        now = time.monotonic()
        held, until = self._leases.get(lease, (holder, now))
        if held != holder and until > now:
            return False
        self._leases[lease] = holder, now + seconds
        return True

    async def let_go(self, lease: str, holder: str) -> None:
        if self._leases.get(lease, ("", 0))[0] == holder:
            del self._leases[lease]

    async def expire(self, stream: str, seconds: float | None) -> None:
        at = None if seconds is None else time.time() + seconds
        async with self._writing():
            tables.expire(self._database, stream, self._state(stream), at)

    async def sweep(self) -> None:
        await self._commit()
        with os_errors():
            due = tables.due(self._database, time.time())
        for name in due:
            async with self._writing():
                state = self._streams.get(name)
                if state is None or not (state.readers or state.unwritten):
                    self._streams.pop(name, None)
                    tables.forget(self._database, name)
            await asyncio.sleep(0)

    async def check(self) -> None:
        async with self._writing():
            tables.write_anything(self._database)

    async def close(self) -> None:
        self._closing = True
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        try:
            if await self._commit():
                with os_errors():
                    tables.close(self._database)
        finally:
            self._disk.close()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Within, what is written without a group; not while the WAL is folded, which locks the file."""
        async with self._folding:
            with os_errors():
                yield

    def _state(self, stream: str) -> StoredStream:
        state = self._streams.get(stream)
        if state is None:
            with os_errors("read"):
                state = tables.find_stream(self._database, stream) or StoredStream(secrets.token_hex(8), 0)
            if len(self._streams) >= _STREAMS:
                idle = [name for name, state in self._streams.items() if not state.readers and not state.unwritten]
                for name in idle[: len(idle) // 2]:
                    del self._streams[name]
            self._streams[stream] = state
        return state

    async def _read(self, stream: str, state: StoredStream, after: int, limit: int) -> list[Event]:
        limit = min(limit, state.head - after)
        if limit <= 0:
            return []
        if state.tail and state.tail[0].offset <= after + 1:
            skip = after + 1 - state.tail[0].offset
            return list(state.tail)[skip : skip + limit]
        if state.volatile and state.unwritten and not await self._commit():
            return []  # the file does not yet have what this stream has
        await asyncio.sleep(0)  # a reader who is far behind does not keep the loop to itself
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
        """Writes all that waits; False when it could not. Goes on when the caller is cancelled: others wait for it."""
        return await asyncio.shield(asyncio.create_task(self._write_group()))

    async def _write_group(self) -> bool:
        """When the group cannot be written, its volatile events wait on and its durable ones are refused."""
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
            try:
                if any(write.durable for write in group):
                    await self._disk.sync()
                async with self._folding:
                    await self._disk.fold()
                failed = None
            except OSError as error:
                failed = error
            self._written(group, offsets, failed)
            return not failed

    def _written(self, group: list[PendingWrite], offsets: list[int], failed: OSError | None) -> None:
        """``failed``: they are in the file, but might not outlive a power cut, and who appended them is told so."""
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

    def _put_back(self, group: list[PendingWrite], error: OSError) -> None:
        for write in group:
            if write.done:
                write.stream.unwritten -= 1
                if not write.done.done():
                    write.done.set_exception(error)
        waiting = [write for write in group if write.done is None]
        too_many = {write.stream: write.name for write in waiting[:-_MOST_UNWRITTEN]}
        self._group = [write for write in waiting + self._group if write.stream not in too_many]
        for stream, name in too_many.items():
            # Its readers are told Lost. The file still has the old epoch, so the new one is never let go of.
            self._streams[name] = StoredStream(secrets.token_hex(8), 0, volatile=True, unwritten=1)
            stream.lost = True
            stream.wake()
