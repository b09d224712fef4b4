"""The streams that this process reads: what is published on them is heard once and stands in memory for all readers.

Nothing depends on hearing everything. Where a stream stands is looked up when somebody begins to read, when Redis has
confirmed that we listen, thus after each interruption, and every now and then; what was not heard is read from Redis.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

from works.events import Event, PositionLost
from works.events.redis.calls import PATIENCE, RedisCalls

# Newest events of a stream kept in memory, and events in one batch.
_TAIL = 256
# Seconds between pings, and without any word from Redis until the connection is taken to be dead and made anew.
_PING, _SILENCE = 3.0, 10.0
# Seconds between attempts to connect.
_PAUSE = 0.25


class Channels(Protocol):
    """The connection by which a process hears what is published. Each method raises OSError."""

    async def open(self) -> None:
        """Connects anew; nothing is listened to."""

    async def change(self, add: set[str], drop: set[str]) -> None:
        """Listens to some streams and no longer to others. Also with neither, Redis says something."""

    async def next(self) -> tuple[str, str, str]:
        """What Redis says: of which kind, on which stream, and what."""

    async def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class FollowedStream:
    """A stream that is read. ``epoch`` is empty until it was looked up.

    ``lost``: it has begun again, or lost its newest events; who comes now reads another Followed.
    """

    name: str
    epoch: str = ""
    head: int = 0
    readers: int = 0
    lost: bool = False
    looking: "asyncio.Future[Any] | None" = None
    tail: deque[Event] = field(default_factory=lambda: deque(maxlen=_TAIL))
    changed: asyncio.Event = field(default_factory=asyncio.Event)


def events_of(answer: list[Any]) -> list[Event]:
    """The events in the answer of the script ``read``."""
    return [Event(int(id[:-2]), data) for id, data in zip(answer[2::2], answer[3::2], strict=True)]


class RedisSubscriptions:
    """``look`` makes the call that says where a stream stands and that ``process`` reads it."""

    def __init__(
        self, calls: RedisCalls, channels: Channels, process: str, look: Callable[[str], "asyncio.Future[Any]"]
    ) -> None:
        self._calls, self._channels, self._process, self._look = calls, channels, process, look
        self._streams: dict[str, FollowedStream] = {}
        # What we have asked Redis to be told of, on this connection; None while there is none.
        self._listening: set[str] | None = None
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._hear()), loop.create_task(self._tune())]

    async def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """As an EventLog does; while Redis is away it waits."""
        state = self._streams.get(stream)
        if state is None:
            state = self._streams[stream] = FollowedStream(stream)
            self._changed.set()
        state.readers += 1
        try:
            await self._look_up(state)
            while True:
                while state.head == after and not state.lost:
                    await state.changed.wait()
                events = await self._read(state, after)
                if not events or events[0].offset != after + 1:
                    raise PositionLost(f"events after {after} are no longer kept")
                after = events[-1].offset
                yield events
        finally:
            state.readers -= 1
            if not state.readers:
                self._leave(state)

    def look_again(self) -> None:
        """Finds out what was missed, and says that this process still reads what it reads."""
        for state in self._streams.values():
            if state.looking is None:
                self._look_up(state)

    async def close(self) -> None:
        """To be called when the calls are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channels.close()

    async def _read(self, state: FollowedStream, after: int) -> list[Event]:
        """The next events; none when they cannot be had."""
        limit = min(_TAIL, state.head - after)
        if state.lost or limit <= 0:
            return []
        if state.tail and state.tail[0].offset <= after + 1:
            skip = after + 1 - state.tail[0].offset
            return list(islice(state.tail, skip, skip + limit))
        answer = await self._calls.call("read", state.name, f"{max(after, 0) + 1}-0", limit, patience=None)
        if answer[0] != state.epoch:
            self._lose(state)
        return [] if state.lost else events_of(answer)

    def _leave(self, state: FollowedStream) -> None:
        if self._streams.get(state.name) is state:
            del self._streams[state.name]
            self._changed.set()
        if state.name not in self._streams:
            with suppress(OSError):  # the log is closed
                told = self._calls.send("look away", state.name, self._process)
                # No longer than that: without a word Redis forgets us a little later.
                asyncio.get_running_loop().call_later(PATIENCE, told.cancel)

    def _look_up(self, state: FollowedStream) -> "asyncio.Future[Any]":
        state.looking = self._look(state.name)
        state.looking.add_done_callback(partial(self._looked_up, state, state.head))
        return state.looking

    def _looked_up(self, state: FollowedStream, known: int, found: "asyncio.Future[Any]") -> None:
        """``known``: the head when we asked. What was heard since may be newer than the answer."""
        if state.looking is found:
            state.looking = None
        if found.cancelled() or found.exception():
            return
        epoch, head = found.result()
        state.epoch = state.epoch or epoch
        if epoch != state.epoch or head < known:
            self._lose(state)
        elif head > state.head:
            state.head = head
            state.tail.clear()
            self._wake(state)

    def _heard(self, name: str, message: str) -> None:
        state = self._streams.get(name)
        if state is None:
            return
        epoch, offset, data = message.split(" ", 2)
        event = Event(int(offset), data)
        state.epoch = state.epoch or epoch
        if epoch != state.epoch:
            self._lose(state)
        elif event.offset > state.head:
            if event.offset > state.head + 1:
                state.tail.clear()
            state.head = event.offset
            state.tail.append(event)
            self._wake(state)

    def _lose(self, state: FollowedStream) -> None:
        state.lost = True
        if self._streams.get(state.name) is state:
            del self._streams[state.name]
            self._changed.set()
        self._wake(state)

    def _wake(self, state: FollowedStream) -> None:
        state.changed.set()
        state.changed = asyncio.Event()

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError, ValueError):  # Redis is away, or somebody said what we do not understand
                await self._channels.open()
                self._listening = set()
                self._changed.set()
                async with asyncio.timeout(_SILENCE) as silence:
                    while True:
                        kind, name, message = await self._channels.next()
                        silence.reschedule(loop.time() + _SILENCE)
                        if kind == "message":
                            self._heard(name, message)
                        elif kind == "subscribe" and name in self._streams:
                            self._look_up(self._streams[name])
            self._listening = None
            await self._channels.close()
            await asyncio.sleep(_PAUSE)

    async def _tune(self) -> None:
        """Keeps what we listen to the same as what is read."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING):
                    await self._changed.wait()
            self._changed.clear()
            if self._listening is not None:
                wanted = set(self._streams)
                add, drop = wanted - self._listening, self._listening - wanted
                self._listening = wanted
                with suppress(OSError):  # then it will be heard that the connection is gone
                    await self._channels.change(add, drop)
