"""The streams that this process reads. A published event is received once and kept in memory for all readers.

Published events may get lost. So the position of a stream is requested when a reader starts, when Redis has confirmed
the subscription, which includes every reconnect, and at every refresh. Missed events are read from Redis.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from works.background import BackgroundTasks
from works.events.broker import Event, PositionLost
from works.events.redis.calls import RedisCalls
from works.events.redis.connection import ChannelConnection
from works.events.redis.scripts import begin_arguments

# Newest events of a stream in memory, which is also the largest list of events that is yielded.
_TAIL = 256
# Seconds between pings, and seconds without data from Redis after which the connection counts as dead.
_PING, _SILENCE = 3.0, 10.0
# Seconds between attempts to connect.
_PAUSE = 0.25


@dataclass(eq=False, slots=True)
class FollowedStream:
    """A stream that is read. ``epoch`` is empty until the position is known.

    ``lost``: the stream was started again or has lost its newest events. New readers get another FollowedStream.
    """

    name: str
    epoch: str = ""
    head: int = 0
    readers: int = 0
    lost: bool = False
    lookup: "asyncio.Future[Any] | None" = None
    tail: deque[Event] = field(default_factory=lambda: deque(maxlen=_TAIL))
    changed: asyncio.Event = field(default_factory=asyncio.Event)


def events_of(answer: list[Any]) -> list[Event]:
    """Returns the events in the answer of the script ``read``."""
    return [Event(int(id[:-2]), data) for id, data in zip(answer[2::2], answer[3::2], strict=True)]


class RedisSubscriptions:
    """``present``: seconds for which this process counts as a reader of a stream after each request for its
    position.
    """

    def __init__(
        self, calls: RedisCalls, channels: ChannelConnection, present: float, background: BackgroundTasks
    ) -> None:
        self._calls, self._channels, self._present = calls, channels, present
        self._streams: dict[str, FollowedStream] = {}
        # Streams whose channels are subscribed on the current connection, or None without a connection.
        self._subscribed: set[str] | None = None
        self._changed = asyncio.Event()
        self._tasks = [
            background.start("event receiver", self._receive),
            background.start("event subscriptions", self._keep_subscribed),
        ]

    async def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """Subscribes as in Broker. While Redis is unavailable it waits. Raises PositionLost."""
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
                    raise PositionLost(f"events after {after} are no longer retained")
                after = events[-1].offset
                yield events
        finally:
            state.readers -= 1
            if not state.readers:
                self._leave(state)

    def refresh(self) -> None:
        """Requests the position of each stream. This finds missed events, and tells Redis that this process still reads
        them.
        """
        for state in self._streams.values():
            if state.lookup is None:
                self._look_up(state)

    async def close(self) -> None:
        """Ends the tasks and the connection. To be called after the calls are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channels.close()

    async def _read(self, state: FollowedStream, after: int) -> list[Event]:
        """Returns the next events, or none when they cannot be read."""
        limit = min(_TAIL, state.head - after)
        if state.lost or limit <= 0:
            return []
        if state.tail and state.tail[0].offset <= after + 1:
            skip = after + 1 - state.tail[0].offset
            return list(islice(state.tail, skip, skip + limit))
        answer = await self._calls.call("read", state.name, f"{max(after, 0) + 1}-0", limit, forever=True)
        if answer[0] != state.epoch:
            self._lose(state)
        return [] if state.lost else events_of(answer)

    def _leave(self, state: FollowedStream) -> None:
        if self._streams.get(state.name) is state:
            del self._streams[state.name]
            self._changed.set()
        if state.name not in self._streams:
            with suppress(OSError):  # the store is closed
                leaving = self._calls.send("stop reading", state.name, self._calls.process)
                # Redis forgets a reader that does not refresh, so there is no need to wait longer
                asyncio.get_running_loop().call_later(self._calls.patience, leaving.cancel)

    def _look_up(self, state: FollowedStream) -> "asyncio.Future[Any]":
        """Requests the stream's position, and tells Redis that this process reads it."""
        found = self._calls.send("position", *begin_arguments(state.name), self._calls.process, self._present)
        state.lookup = found
        found.add_done_callback(partial(self._take_position, state, state.head))
        return found

    def _take_position(self, state: FollowedStream, known: int, found: "asyncio.Future[Any]") -> None:
        """``known``: the head when the call was made. Events that were received since then may be newer than the
        answer.
        """
        if state.lookup is found:
            state.lookup = None
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

    def _take_message(self, name: str, message: str) -> None:
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

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError, ValueError):  # Redis is unavailable, or a message was not from Sluice
                await self._channels.open()
                self._subscribed = set()
                self._changed.set()
                async with asyncio.timeout(_SILENCE) as silence:
                    while True:
                        kind, name, message = await self._channels.next()
                        silence.reschedule(loop.time() + _SILENCE)
                        if kind == "message":
                            self._take_message(name, message)
                        elif kind == "subscribe" and name in self._streams:
                            self._look_up(self._streams[name])
            self._subscribed = None
            await self._channels.close()
            await asyncio.sleep(_PAUSE)

    async def _keep_subscribed(self) -> None:
        """Keeps the subscribed channels equal to the streams that are read."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING):
                    await self._changed.wait()
            self._changed.clear()
            if self._subscribed is not None:
                wanted = set(self._streams)
                add, drop = wanted - self._subscribed, self._subscribed - wanted
                self._subscribed = wanted
                with suppress(OSError):  # then ``_receive`` notices that the connection is lost
                    await self._channels.change(add, drop)
